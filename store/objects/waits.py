"""Waits for storage that somebody should know of: told once when one is late, and once when storage answers again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Of what has failed already; a hiccup that passes sooner is nobody's business.
TOLD_AFTER_FAULT_S = 2.0
# Of what has not answered at all: it may just be much that is asked for.
TOLD_AFTER_S = 4.0
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Wait:
    """Storage has not done what it was asked for `waited_s`, and is asked again until `patience_s` are over.

    `what` ends the sentence "Waiting for storage to ..."; `photo` is the key of the photo that it names. `reason` is
    what the last try failed of, None if nothing has failed yet.
    """

    what: str
    waited_s: float
    patience_s: float
    reason: str | None
    is_full: bool
    photo: str | None = None


@dataclass(frozen=True)
class Answer:
    """Storage answers again, `waited_s` after it was asked."""

    waited_s: float


@dataclass(eq=False)
class Request:
    """One thing that storage is asked for, until it is done."""

    what: str
    patience_s: float
    began_s: float
    reason: str | None = None
    is_full: bool = False
    photo: str | None = None
    is_answered: bool = False

    def failed(self, reason: str, is_full: bool) -> None:
        """A try failed, and there will be another one. A full disk is told at once."""
        self.reason, self.is_full = reason, is_full
        if is_full:
            _WAITS.look()

    def is_late(self, now_s: float) -> bool:
        limit_s = TOLD_AFTER_S if self.reason is None else TOLD_AFTER_FAULT_S
        return self.is_full or now_s - self.began_s >= limit_s


def tell_of_waits(listener: Callable[[Wait | Answer], None] | None) -> None:
    """Have somebody told of waits of this process from now on; None: nobody. The listener is called in any thread."""
    _WAITS.listener = listener


@contextmanager
def waiting(what: str, patience_s: float, photo: str | None = None) -> Iterator[Request]:
    """Storage is asked for something while this is entered; who enters it sets `is_answered` when it is done."""
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
    """Storage has given a part of what this thread asked for: the wait begins anew."""
    request = getattr(_OF_THREAD, "request", None)
    if request is not None:
        request.began_s = time.monotonic()


class _Waits:
    """The requests under way in this process. A trouble is told once, however many requests wait for its end."""

    def __init__(self) -> None:
        self.listener: Callable[[Wait | Answer], None] | None = None
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._told: Request | None = None
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
            told = self._told
            if told is None or any(other.is_late(now_s) for other in self._requests):
                return
            self._told = None
        if request.is_answered:
            self._tell(Answer(now_s - told.began_s))

    def look(self) -> None:
        """Tell of a request that is late, unless the trouble was told."""
        with self._changed:
            now_s = time.monotonic()
            late = [request for request in self._requests if request.is_late(now_s)]
            if self._told is not None or not late:
                return
            self._told = told = max(late, key=lambda request: (request.is_full, -request.began_s))
        self._tell(Wait(told.what, now_s - told.began_s, told.patience_s, told.reason, told.is_full, told.photo))

    def _tell(self, told: Wait | Answer) -> None:
        if self.listener is not None:
            self.listener(told)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._requests:
                    self._changed.wait()
            time.sleep(_LOOK_EVERY_S)
            self.look()


_WAITS = _Waits()
_OF_THREAD = threading.local()
