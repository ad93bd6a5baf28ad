"""Ends this worker process when a read on disk hangs: Spark runs its task again, which then reads with more care."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOOK_S = 1.0


class Watchdog:
    """Watches what one thread does: a read in a thread of its own costs each photo a wake-up and a cold cache.

    No signal would do: a network disk that hangs lets its caller go only with the whole process.
    """

    def __init__(self) -> None:
        self._ends_at_s = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def ends_process_after(self, limit_s: float) -> Iterator[None]:
        """The process is killed if the block takes longer, by up to a second."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        self._ends_at_s = time.monotonic() + limit_s
        try:
            yield
        finally:
            self._ends_at_s = math.inf

    def _run(self) -> None:
        while time.monotonic() < self._ends_at_s:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)


# One for all tasks of a worker, which run one after the other.
WATCHDOG = Watchdog()
