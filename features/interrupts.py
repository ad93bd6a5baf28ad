"""Ctrl-C, which a terminal sends to every process of a command at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_withheld() -> Iterator[None]:
    """Processes that are started here never see a Ctrl-C, and say nothing of it: whoever started them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
