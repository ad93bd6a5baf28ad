"""A proxy between the service and an S3 server that interferes with chosen requests, and with others at set rates.

It runs as a process of its own: a storage client that holds the interpreter while it waits would wait for itself.
`python -m tests.support.fault_proxy http://127.0.0.1:9000` prints its URL. What the server offers beside S3 passes too.
"""

import http.client
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RULES_PATH = "/-/rules"
WEATHER_PATH = "/-/weather"

# What can befall a request; of two at once the first does, the other befalls the next one.
KINDS = ("error_503", "error_500", "reset", "short_read", "slow_body", "landed_error", "stall")

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
_READS = {"GET"}
_WRITES = {"PUT", "POST", "DELETE"}


@dataclass
class Rule:
    """Interfere with requests whose method and path match, `times` times (-1: always), after `skip` of them went by.

    `signal_after` sends a signal to a process once the request was carried out, before the answer goes back;
    `answer` and `body` replace the answer's status and body, though the request was carried out. With `header` only
    requests that have it match; `drops_header` keeps it from the server, which then knows of no condition.
    """

    method: str
    path: str
    signal_before: tuple[int, int] | None = None
    signal_after: tuple[int, int] | None = None
    answer: int | None = None
    body: str = ""
    times: int = 1
    skip: int = 0
    header: str = ""
    drops_header: bool = False

    def applies(self, method: str, path: str, headers: Message) -> bool:
        if method != self.method or not re.search(self.path, path) or self.times == 0:
            return False
        if self.header and self.header not in headers:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= self.times > 0
        return True


@dataclass
class Weather:
    """Shares of the requests, from 0 to 1, that each kind of fault befalls.

    `match` is searched in "METHOD path" and leaves other requests alone. A fault comes after a random number of
    requests, at most twice its mean: of every 2 / rate requests at least one is hit, whatever the seed.
    """

    seed: int = 0
    error_503: float = 0.0
    """S3 asks to slow down; the request is not carried out."""
    error_500: float = 0.0
    """S3 has an internal error; the request is not carried out."""
    reset: float = 0.0
    """The connection is reset before an answer; the request is not carried out."""
    short_read: float = 0.0
    """Of reads: half of the body comes, then the connection ends."""
    slow_body: float = 0.0
    """Of reads: the body comes in pieces over `slow_body_s`."""
    landed_error: float = 0.0
    """Of writes and deletes: the request is carried out, and the answer is an internal error."""
    stall: float = 0.0
    """The answer comes after `stall_s`."""
    stall_s: float = 1.0
    slow_body_s: float = 0.5
    match: str = ""


def s3_error(code: str, message: str) -> str:
    """The body of an error as Amazon S3 answers it."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'


def set_rules(proxy_url: str, *rules: Rule) -> None:
    """Replace the rules of a running proxy."""
    _control(proxy_url, "PUT", RULES_PATH, json.dumps([asdict(rule) for rule in rules]))


def unused_rules(proxy_url: str) -> list[str]:
    """The paths of rules that have not applied as often as they should."""
    return [rule["path"] for rule in json.loads(_control(proxy_url, "GET", RULES_PATH)) if rule["times"] > 0]


def set_weather(proxy_url: str, weather: Weather) -> None:
    """Replace the weather of a running proxy, and count its faults from zero."""
    _control(proxy_url, "PUT", WEATHER_PATH, json.dumps(asdict(weather)))


def faults(proxy_url: str) -> dict[str, int]:
    """How many requests each kind of fault has befallen since the weather was set."""
    return dict(json.loads(_control(proxy_url, "GET", WEATHER_PATH)))


def _control(proxy_url: str, method: str, path: str, body: str | None = None) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(proxy_url).netloc, timeout=10)
    connection.request(method, path, body)
    content = connection.getresponse().read()
    connection.close()
    return content


@dataclass
class Sky:
    """A weather at work: when each fault comes next, and how often it came."""

    weather: Weather
    came: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.weather.seed)
        self._requests_left = {kind: self._gap(kind) for kind in KINDS if getattr(self.weather, kind)}

    def fault_for(self, method: str, path: str) -> str | None:
        if not re.search(self.weather.match, f"{method} {path}"):
            return None
        befallable = [kind for kind in self._requests_left if _can_befall(kind, method)]
        for kind in befallable:
            self._requests_left[kind] -= 1
        due = next((kind for kind in befallable if self._requests_left[kind] <= 0), None)
        if due is not None:
            self._requests_left[due] = self._gap(due)
            self.came[due] += 1
        return due

    def _gap(self, kind: str) -> int:
        return self._random.randint(1, max(1, round(2 / getattr(self.weather, kind)) - 1))


def _can_befall(kind: str, method: str) -> bool:
    if kind in ("short_read", "slow_body"):
        return method in _READS
    return kind != "landed_error" or method in _WRITES


class Proxy(ThreadingHTTPServer):
    """Forwards everything to `upstream`, as the rules and the weather allow."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.rules: list[Rule] = []
        self.sky = Sky(Weather())
        self._lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away, which is what faults make them do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def rule_for(self, method: str, path: str, headers: Message) -> Rule | None:
        with self._lock:
            return next((rule for rule in self.rules if rule.applies(method, path, headers)), None)

    def fault_for(self, method: str, path: str) -> str | None:
        with self._lock:
            return self.sky.fault_for(method, path)


class Handler(BaseHTTPRequestHandler):
    """One client's connection, with one of its own to the server."""

    server: Proxy
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet, at once: otherwise each answer waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path in (RULES_PATH, WEATHER_PATH):
            self._serve_control(body)
            return
        rule = self.server.rule_for(self.command, self.path, self.headers)
        fault = self.server.fault_for(self.command, self.path)
        if rule and rule.signal_before:
            os.kill(*rule.signal_before)
        if fault == "reset":
            self._reset()
            return
        if fault == "error_503":
            self._answer(503, s3_error("SlowDown", "Please reduce your request rate.").encode())
            return
        if fault == "error_500":
            self._answer(500, s3_error("InternalError", "We encountered an internal error. Please try again.").encode())
            return
        if fault == "stall":
            time.sleep(self.server.sky.weather.stall_s)
        if rule and rule.drops_header:
            del self.headers[rule.header]
        answer, content = self._forwarded(body)
        if rule and rule.signal_after:
            os.kill(*rule.signal_after)
        if rule and rule.answer:
            self._answer(rule.answer, rule.body.encode())
            return
        if fault == "landed_error":
            self._answer(500, s3_error("InternalError", "We encountered an internal error. Please try again.").encode())
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self._send_body(content, fault)

    def _forwarded(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        kept = self._upstream.sock is not None
        try:
            self._upstream.request(self.command, self.path, body, headers)
            answer = self._upstream.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            # A connection that was kept may have been closed by the server just now; a new one was not.
            if not kept:
                raise
            self._upstream.close()
            self._upstream.request(self.command, self.path, body, headers)
            answer = self._upstream.getresponse()
        return answer, answer.read()

    def _send_body(self, content: bytes, fault: str | None) -> None:
        if fault == "short_read":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif fault == "slow_body":
            pieces = 8
            size_bytes = -(-len(content) // pieces) or 1
            for begin in range(0, len(content), size_bytes):
                self.wfile.write(content[begin : begin + size_bytes])
                self.wfile.flush()
                time.sleep(self.server.sky.weather.slow_body_s / pieces)
        else:
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Past the server's own orderly shutdown, which would send an end before the reset.
        os.close(self.connection.detach())

    def _serve_control(self, body: bytes) -> None:
        server = self.server
        if self.path == RULES_PATH:
            if self.command == "PUT":
                server.rules = [Rule(**rule) for rule in json.loads(body)]
            self._answer(200, json.dumps([asdict(rule) for rule in server.rules]).encode())
        else:
            if self.command == "PUT":
                server.sky = Sky(Weather(**json.loads(body)))
            self._answer(200, json.dumps({kind: server.sky.came[kind] for kind in KINDS}).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test prints what matters."""


if __name__ == "__main__":
    proxy = Proxy(sys.argv[1])
    print(f"http://127.0.0.1:{proxy.server_port}", flush=True)
    proxy.serve_forever()
