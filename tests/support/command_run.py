"""The `fruits` command run in this process: its exit code, and what it wrote to standard output and standard error."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from ops.cli.console import DEBUGGING
from ops.cli.main import main


@dataclass(frozen=True)
class Ended:
    """What a script sees of a command."""

    returncode: int
    output: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.output.decode()


def run_fruits(*arguments: str) -> Ended:
    """Run one command from its arguments to its exit code, with errors as its user sees them."""
    output, said = io.BytesIO(), io.BytesIO()
    given = sys.argv
    sys.argv = ["fruits", *arguments]
    try:
        with redirect_stdout(io.TextIOWrapper(output, "utf-8")), redirect_stderr(io.TextIOWrapper(said, "utf-8")):
            code = _exit_code()
            sys.stdout.flush()
            sys.stderr.flush()
            return Ended(code, output.getvalue(), said.getvalue().decode())
    finally:
        sys.argv = given
        DEBUGGING.clear()


def _exit_code() -> int:
    try:
        main()
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
