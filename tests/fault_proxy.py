"""A proxy between the service and an S3 server that lets a test interfere with chosen requests.

It runs as a process of its own: a storage client that holds the interpreter while it waits would wait for itself.
"""

import http.client
import json
import os
import re
import sys
import threading
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RULES_PATH = "/-/rules"

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Rule:
    """Interfere with requests whose method and path match, `times` times, after `skip` of them went by.

    `signal_after` sends a signal to a process once the request was carried out, before the answer goes back;
    `answer` replaces the answer's status, though the request was carried out.
    """

    method: str
    path: str
    signal_before: tuple[int, int] | None = None
    signal_after: tuple[int, int] | None = None
    answer: int | None = None
    times: int = 1
    skip: int = 0

    def applies(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


def set_rules(proxy_url: str, *rules: Rule) -> None:
    """Replace the rules of a running proxy."""
    _control(proxy_url, "PUT", json.dumps([asdict(rule) for rule in rules]))


def unused_rules(proxy_url: str) -> list[str]:
    """The paths of rules that have not applied as often as they should."""
    return [rule["path"] for rule in json.loads(_control(proxy_url, "GET")) if rule["times"]]


def _control(proxy_url: str, method: str, body: str | None = None) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(proxy_url).netloc, timeout=10)
    connection.request(method, RULES_PATH, body)
    content = connection.getresponse().read()
    connection.close()
    return content


class Proxy(ThreadingHTTPServer):
    """Forwards everything to `upstream`, as the rules allow."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    def rule_for(self, method: str, path: str) -> Rule | None:
        with self._lock:
            return next((rule for rule in self.rules if rule.applies(method, path)), None)


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet, at once: otherwise each answer waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == RULES_PATH:
            self._serve_rules(body)
            return
        rule = self.server.rule_for(self.command, self.path)
        if rule and rule.signal_before:
            os.kill(*rule.signal_before)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if rule and rule.signal_after:
            os.kill(*rule.signal_after)
        if rule and rule.answer:
            self._answer(rule.answer, b"")
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    def _serve_rules(self, body: bytes) -> None:
        if self.command == "PUT":
            self.server.rules = [Rule(**rule) for rule in json.loads(body)]
        self._answer(200, json.dumps([asdict(rule) for rule in self.server.rules]).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a test prints what matters."""


if __name__ == "__main__":
    proxy = Proxy(sys.argv[1])
    print(f"http://127.0.0.1:{proxy.server_port}", flush=True)
    proxy.serve_forever()
