"""Long waits for storage: reported once when a request is late, and once when storage answers again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# After a fault; a hiccup that passes sooner is not reported.
REPORTED_AFTER_FAULT_S = 2.0
# Without any answer: the request may just be a large one.
REPORTED_AFTER_S = 4.0
_CHECK_EVERY_S = 0.2


@dataclass(frozen=True)
class Wait:
    """A request has waited for `waited_s`, and is tried again until `patience_s` are over.

    `what` ends the sentence "Waiting for storage to ..."; `photo` is the key of the photo that it names. `reason` is
    why the last try failed, None without a failure.
    """

    what: str
    waited_s: float
    patience_s: float
    reason: str | None
    is_full: bool
    photo: str | None = None


@dataclass(frozen=True)
class Recovery:
    """Storage answers again, `waited_s` after the request."""

    waited_s: float


@dataclass(eq=False)
class Request:
    """One request to storage, until it is done."""

    what: str
    patience_s: float
    started_s: float
    reason: str | None = None
    is_full: bool = False
    photo: str | None = None
    is_answered: bool = False

    def failed(self, reason: str, is_full: bool) -> None:
        """Note a failed try, which is followed by another one. A full disk is reported at once."""
        self.reason, self.is_full = reason, is_full
        if is_full:
            _WAITS.check()

    def is_late(self, now_s: float) -> bool:
        limit_s = REPORTED_AFTER_S if self.reason is None else REPORTED_AFTER_FAULT_S
        return self.is_full or now_s - self.started_s >= limit_s


def report_waits_to(listener: Callable[[Wait | Recovery], None] | None) -> None:
    """Report waits of this process to a listener from now on, in any thread; None: to nobody."""
    _WAITS.listener = listener


@contextmanager
def waiting(what: str, patience_s: float, photo: str | None = None) -> Iterator[Request]:
    """A request to storage lasts while this is entered; the caller sets `is_answered` when it is done."""
    request = Request(what, patience_s, time.monotonic(), photo=photo)
    outer = getattr(_OF_THREAD, "request", None)
    _OF_THREAD.request = request
    _WAITS.begin(request)
    try:
        yield request
    finally:
        _OF_THREAD.request = outer
        _WAITS.end(request)


def note_progress() -> None:
    """Storage has given a part of what this thread requested: the wait starts again."""
    request = getattr(_OF_THREAD, "request", None)
    if request is not None:
        request.started_s = time.monotonic()


class _Waits:
    """The requests under way in this process. A trouble is reported once, however many requests wait."""

    def __init__(self) -> None:
        self.listener: Callable[[Wait | Recovery], None] | None = None
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._reported: Request | None = None
        self._thread: threading.Thread | None = None

    def begin(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            if self.listener is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waits", daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self, request: Request) -> None:
        with self._changed:
            self._requests.remove(request)
            now_s = time.monotonic()
            reported = self._reported
            if reported is None or any(other.is_late(now_s) for other in self._requests):
                return
            self._reported = None
        if request.is_answered:
            self._report(Recovery(now_s - reported.started_s))

    def check(self) -> None:
        """Report a request that is late, unless the trouble was reported."""
        with self._changed:
            now_s = time.monotonic()
            late = [request for request in self._requests if request.is_late(now_s)]
            if self._reported is not None or not late:
                return
            self._reported = worst = max(late, key=lambda request: (request.is_full, -request.started_s))
        waited_s = now_s - worst.started_s
        self._report(Wait(worst.what, waited_s, worst.patience_s, worst.reason, worst.is_full, worst.photo))

    def _report(self, event: Wait | Recovery) -> None:
        if self.listener is not None:
            self.listener(event)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._requests:
                    self._changed.wait()
            time.sleep(_CHECK_EVERY_S)
            self.check()


_WAITS = _Waits()
_OF_THREAD = threading.local()
