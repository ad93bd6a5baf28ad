"""Threads for work that may hang: nobody has to wait for one, neither who gave it work nor the end of the process."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[Future[Any], Callable[[], Any], Callable[[], None] | None]


class SpareThreads:
    """Daemon threads that take work one piece at a time; whenever all of them are busy, or hang, another one begins.

    Used by one thread, which decides how much is under way at once.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._closed = False

    def submit(self, work: Callable[[], _T], then: Callable[[], None] | None = None) -> "Future[_T]":
        """Begin some work; the same thread does `then`, which must not raise, once the result can be had."""
        future: Future[_T] = Future()
        if self._idle:
            jobs = self._idle.pop()
        else:
            jobs = SimpleQueue()
            Thread(target=self._run, args=(jobs,), name="spare", daemon=True).start()
        jobs.put((future, work, then))
        return future

    def close(self) -> None:
        """Let the threads end, each when its work is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _run(self, jobs: "SimpleQueue[_Job | None]") -> None:
        while (job := jobs.get()) is not None:
            _do(*job)
            # What is waiting for its next work holds on to nothing.
            del job
            self._idle.append(jobs)
            if self._closed:
                return


def _do(future: "Future[Any]", work: Callable[[], Any], then: Callable[[], None] | None) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    if then is not None:
        then()
