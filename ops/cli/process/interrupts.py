"""Ctrl-C: a command ends with one line and exit code 130, and leaves no process behind.

The first one lets a command end in order, so that a lease or a sign of life ends with it; a running stream finishes
what is in flight. The second one ends everything at once, as a kill would: nothing is lost or doubled by it.
"""

import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

EXIT_CODE = 130
# For the main thread to leave the library that it is in, and then for ending in order.
RETURN_S = 2.0
PATIENCE_S = 5.0

# A program around this one may pass on what the terminal has sent to both.
ONE_PRESS_S = 0.2

_SHOW_CURSOR = b"\x1b[?25h"
_FINISH = b"\0"


class Interrupted(BaseException):
    """Ctrl-C was pressed. No KeyboardInterrupt: that is caught and told of by libraries, each in its own way."""


def run_interruptibly(command: Callable[[], object]) -> None:
    """Run a command that Ctrl-C ends, from its imports on."""
    _INTERRUPTS.listen()
    try:
        command()
    except Interrupted:
        # What the interpreter does at its own end could wait for threads.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        _INTERRUPTS.end()
    finally:
        # The interpreter ends now, which a handler that raises would make a traceback of.
        _INTERRUPTS.is_over = True


def stop_on_sigterm() -> threading.Event:
    """An event that SIGTERM sets."""
    return _INTERRUPTS.stop_on_sigterm()


def finish_at_interrupt(stop: threading.Event) -> None:
    """From now on the first Ctrl-C sets `stop` and ends nothing."""
    _INTERRUPTS.finish(stop)


def raise_if_ending() -> None:
    """Raises Interrupted if Ctrl-C ends the command, whatever error a library made of it."""
    if _INTERRUPTS.is_ending:
        raise Interrupted


def raise_if_interrupted() -> None:
    """Raises Interrupted if Ctrl-C was pressed, though what was in flight was finished first."""
    if _INTERRUPTS.count:
        raise Interrupted


class _Interrupts:
    """Counts Ctrl-C in a thread of its own: the main thread may be in a library that returns only after minutes."""

    def __init__(self) -> None:
        self.count = 0
        self.is_listening = False
        self.is_ending = False
        self.is_over = False
        self._stop: threading.Event | None = None
        self._terminate: threading.Event | None = None
        self._one_ends = threading.Lock()
        self._standard_error = 2
        self._tells = -1

    def listen(self) -> None:
        if self.is_listening:
            return
        self.is_listening = True
        # While Spark starts, the usual one is a file.
        self._standard_error = os.dup(2)
        hears, self._tells = os.pipe()
        os.set_blocking(self._tells, False)
        signal.set_wakeup_fd(self._tells, warn_on_full_buffer=False)
        threading.Thread(target=self._hear, args=(hears,), name="interrupts", daemon=True).start()
        # In the background of a script it is ignored: the script's Ctrl-C is not meant.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    def stop_on_sigterm(self) -> threading.Event:
        self.listen()
        self._terminate = threading.Event()
        # The thread that hears sets it: a handler could find the event's lock taken by what it interrupts.
        signal.signal(signal.SIGTERM, lambda *_: None)
        return self._terminate

    def finish(self, stop: threading.Event) -> None:
        self.listen()
        self._stop = stop
        # A stream is asked to stop by this signal alone, too, wherever it was started.
        signal.signal(signal.SIGINT, self._interrupt)

    def end(self) -> NoReturn:
        """End this process and all that it started, and say so."""
        from ops.cli.process.descendants import kill_descendants

        # The main thread may find Spark gone and fail of it: that is no error to tell of.
        self.is_ending = True
        with self._one_ends:
            _hush()
            # Servers of Spark's in this process tell of each connection that ends now.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            kill_descendants()
            line = b"fruits: interrupted.\n"
            with suppress(OSError):
                if os.isatty(1):
                    os.write(1, _SHOW_CURSOR)
                # Over the ^C that a terminal shows.
                line = b"\r" + _SHOW_CURSOR + line if os.isatty(self._standard_error) else line
                os.write(self._standard_error, line)
            os._exit(EXIT_CODE)

    def _interrupt(self, *_: object) -> None:
        if self.is_ending or self.is_over:
            return
        if self._stop is None:
            self.is_ending = True
            _hush()
            raise Interrupted
        os.write(self._tells, _FINISH)

    def _hear(self, hears: int) -> None:
        pressed_at_s = math.inf
        while True:
            for number in _read(hears, self._left_s(pressed_at_s)):
                now_s = time.monotonic()
                if number == signal.SIGTERM and self._terminate is not None:
                    self._terminate.set()
                if number == _FINISH[0] and self._stop is not None:
                    self._stop.set()
                if number == signal.SIGINT and self.count == 0:
                    self.count, pressed_at_s = 1, now_s
                elif number == signal.SIGINT and now_s - pressed_at_s > ONE_PRESS_S:
                    self.end()
            if self._left_s(pressed_at_s) <= 0:
                self.end()

    def _left_s(self, pressed_at_s: float) -> float:
        if self._stop is not None and not self.is_ending:
            return math.inf
        return pressed_at_s + (PATIENCE_S if self.is_ending else RETURN_S) - time.monotonic()


def _read(pipe: int, timeout_s: float) -> bytes:
    ready, _, _ = select.select([pipe], [], [], None if timeout_s == math.inf else max(0.0, timeout_s))
    return os.read(pipe, 64) if ready else b""


def _hush() -> None:
    # Threads whose work is cut off, and Spark's connection to Java, would tell of it with tracebacks.
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None


_INTERRUPTS = _Interrupts()
