"""Where commands write: standard output carries the answer, standard error what is said about it."""

import sys
import threading
from typing import Literal

from rich.console import Console

from ops.cli.process.terminal import show_what_terminals_lack
from ops.wording import escape_controls

# How a command writes rows.
Format = Literal["table", "csv", "json", "parquet"]

show_what_terminals_lack()
console = Console(width=None if sys.stdout.isatty() else 160)
messages = Console(stderr=True)
DEBUGGING = threading.Event()


def echo(sentence: str) -> None:
    """Write a sentence of the answer to standard output, as it is, on one line."""
    console.print(escape_controls(sentence), markup=False, highlight=False, soft_wrap=True)


def notify(sentence: str) -> None:
    """Tell a person something on standard error."""
    messages.print(escape_controls(sentence), markup=False, highlight=False, soft_wrap=True)
