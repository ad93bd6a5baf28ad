"""Threads for work that may hang: neither their caller nor the end of the process has to wait for them."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def in_thread(work: Callable[[], _T]) -> "Future[_T]":
    """Do some work in a daemon thread of its own."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="work", daemon=True).start()
    return future
