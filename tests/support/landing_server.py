"""An S3 endpoint whose landing prefix holds a million objects that nobody had to put there, and that counts requests.

It answers listings of one prefix itself, a thousand keys a page and at once, and passes everything else to a server
behind it. It runs as a process of its own: python -m tests.support.landing_server UPSTREAM
"""

import http.client
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

CONTROL = "/-/landing"
PAGE_KEYS = 1000
SIZE_BYTES = 250_000
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shown:
    """What a listing of the prefix shows, of an endless row of objects: the first `old` ones, then `new` of them."""

    prefix: str
    old: int
    new_first: int = 0
    new: int = 0

    def numbers(self, start: int, end: int) -> list[int]:
        """The numbers of the objects at these places of the listing."""
        places = range(start, min(end, self.old + self.new))
        return [place if place < self.old else self.new_first + place - self.old for place in places]


def key(number: int) -> str:
    """The key of an object below the prefix."""
    return f"kiwi/{number:012d}.jpg"


def etag(number: int) -> str:
    """The etag of an object."""
    return f"{number:032x}"


def arrived_at(number: int) -> datetime:
    """When an object arrived: one every hundredth of a second."""
    return BEGINNING + timedelta(milliseconds=10 * number)


def show(endpoint: str, shown: Shown) -> None:
    """Let listings show this from now on."""
    _control(endpoint, "PUT", json.dumps(asdict(shown)))


def requests(endpoint: str) -> Counter[str]:
    """How many requests there were since the start: `list` (pages of the landing), `SQS`, and others by place."""
    return Counter(json.loads(_control(endpoint, "GET")))


def _control(endpoint: str, method: str, body: str | None = None) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    connection.request(method, CONTROL, body)
    content = connection.getresponse().read()
    connection.close()
    return content


class LandingServer(ThreadingHTTPServer):
    """Listings of the prefix from here, all else from `upstream`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.shown = Shown("", 0)
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: LandingServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == CONTROL:
            if self.command == "PUT":
                self.server.shown = Shown(**json.loads(body))
            self._answer(200, {}, json.dumps(self.server.counts).encode())
            return
        query = parse_qs(urlsplit(self.path).query)
        is_ours = "list-type" in query and query.get("prefix") == [self.server.shown.prefix]
        with self.server.lock:
            self.server.counts["list" if is_ours else _kind(self.path)] += 1
        if is_ours:
            self._answer(200, {"Content-Type": "application/xml"}, _page(self.server.shown, query))
        else:
            self._pass_on(body)

    def _pass_on(self, body: bytes) -> None:
        # A new connection each time: on an old one every answer of this server waits 40 ms for an acknowledgement.
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
        self._answer(answer.status, headers, content)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _kind(path: str) -> str:
    if path == "/":
        return "SQS"
    return next((place for place in ("_delta_log", "state", "models") if f"{place}" in path), "other")


def _page(shown: Shown, query: dict[str, list[str]]) -> bytes:
    start = int(query.get("continuation-token", ["0"])[0])
    end = start + PAGE_KEYS
    rows = "".join(
        f"<Contents><Key>{escape(shown.prefix + key(number))}</Key><LastModified>"
        f"{arrived_at(number):%Y-%m-%dT%H:%M:%S.000Z}</LastModified><ETag>&quot;{etag(number)}&quot;</ETag>"
        f"<Size>{SIZE_BYTES}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for number in shown.numbers(start, end)
    )
    more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < shown.old + shown.new else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{rows}</ListBucketResult>"
    ).encode()


if __name__ == "__main__":
    server = LandingServer(sys.argv[1])
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
