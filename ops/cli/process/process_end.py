"""How the `fruits` command's process ends."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def run_and_end(main: Callable[[], NoReturn]) -> NoReturn:
    """Run a program to its end, and leave with its exit code once threads are joined and exit handlers have run.

    Arrow's threads give back files of a table after its last row was read. The interpreter must not be taken apart
    meanwhile, or the process dies of a signal after its output is written.
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
            # The interpreter meets the same error as it ends, and says so.
            raise ended from None
        os._exit(ended.code)
