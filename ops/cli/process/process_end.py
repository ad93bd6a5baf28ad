"""How the `fruits` command's process ends."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def run_and_end(main: Callable[[], NoReturn]) -> NoReturn:
    """Run a program, join its threads, run the exit handlers, and end the process with the program's exit code.

    The interpreter is not shut down: Arrow's threads still close files after a table's last row was read, and the
    process would die of a signal after its output is written.
    """
    try:
        main()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            # The interpreter meets the same error at its end, and reports it.
            raise ended from None
        os._exit(ended.code)
