"""Ctrl-C: a command ends with one line and exit code 130, and leaves no process behind.

At the first Ctrl-C a command ends in order: it releases its lease or its claim. A running stream finishes what is in
flight. The second Ctrl-C ends all processes at once, like a kill: nothing is lost or doubled by it.
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
# How long the main thread may stay in the library that it is in, and then how long it may take to end in order.
RETURN_S = 2.0
PATIENCE_S = 5.0
# A program around this one may pass on the signal that the terminal has sent to both.
ONE_PRESS_S = 0.2

_SHOW_CURSOR = b"\x1b[?25h"
_FINISH = b"\0"


class Interrupted(BaseException):
    """Ctrl-C was pressed. This is no KeyboardInterrupt, because libraries catch and report that one."""


def run_interruptibly(command: Callable[[], object]) -> None:
    """Run a command that Ctrl-C ends, from its imports on."""
    _INTERRUPTS.listen()
    try:
        command()
    except Interrupted:
        # The interpreter's own end could wait for threads.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        _INTERRUPTS.end()
    finally:
        # The interpreter ends now: a handler that raises would print a traceback.
        _INTERRUPTS.is_over = True


def raise_if_ending() -> None:
    """Raises Interrupted if Ctrl-C ends the command, also when a library made another error of it."""
    if _INTERRUPTS.is_ending:
        raise Interrupted


def raise_if_interrupted() -> None:
    """Raises Interrupted if Ctrl-C was pressed, also after what was in flight has been finished."""
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
        self._ending = threading.Lock()
        self._standard_error = 2
        self._signals_in = -1

    def listen(self) -> None:
        if self.is_listening:
            return
        self.is_listening = True
        # While Spark starts, descriptor 2 is a file.
        self._standard_error = os.dup(2)
        signals_out, self._signals_in = os.pipe()
        os.set_blocking(self._signals_in, False)
        signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        threading.Thread(target=self._follow_signals, args=(signals_out,), name="interrupts", daemon=True).start()
        # In the background of a script the signal is ignored: the script's Ctrl-C is not for this command.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    def stop_on_sigterm(self) -> threading.Event:
        """An event that SIGTERM sets."""
        self.listen()
        self._terminate = threading.Event()
        # The other thread sets the event: a handler could find its lock taken by the code that it interrupts.
        signal.signal(signal.SIGTERM, lambda *_: None)
        return self._terminate

    def finish(self, stop: threading.Event) -> None:
        """From now on the first Ctrl-C sets `stop` and ends nothing."""
        self.listen()
        self._stop = stop
        # SIGINT alone stops a stream, too, also in the background of a script.
        signal.signal(signal.SIGINT, self._interrupt)

    def end(self) -> NoReturn:
        """End this process and all that it started, and say so."""
        from ops.cli.process.descendants import kill_descendants

        # The main thread may fail because Spark is gone: that error is not shown.
        self.is_ending = True
        with self._ending:
            _silence_logging()
            # Spark's servers in this process write about each connection that ends now.
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
            _silence_logging()
            raise Interrupted
        os.write(self._signals_in, _FINISH)

    def _follow_signals(self, signals_out: int) -> None:
        pressed_at_s = math.inf
        while True:
            left_s = self._time_left_s(pressed_at_s)
            ready, _, _ = select.select([signals_out], [], [], None if left_s == math.inf else max(0.0, left_s))
            for number in os.read(signals_out, 64) if ready else b"":
                now_s = time.monotonic()
                if number == signal.SIGTERM and self._terminate is not None:
                    self._terminate.set()
                if number == _FINISH[0] and self._stop is not None:
                    self._stop.set()
                if number == signal.SIGINT and self.count == 0:
                    self.count, pressed_at_s = 1, now_s
                elif number == signal.SIGINT and now_s - pressed_at_s > ONE_PRESS_S:
                    self.end()
            if self._time_left_s(pressed_at_s) <= 0:
                self.end()

    def _time_left_s(self, pressed_at_s: float) -> float:
        if self._stop is not None and not self.is_ending:
            return math.inf
        return pressed_at_s + (PATIENCE_S if self.is_ending else RETURN_S) - time.monotonic()


def _silence_logging() -> None:
    # Interrupted threads, and Spark's connection to Java, would print tracebacks.
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None


_INTERRUPTS = _Interrupts()
stop_on_sigterm, finish_at_interrupt = _INTERRUPTS.stop_on_sigterm, _INTERRUPTS.finish
