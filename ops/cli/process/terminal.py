"""Standard output and standard error of the `fruits` command."""

import io
import os
import sys


def show_what_terminals_lack() -> None:
    """Have both streams write `\\xea` and the like for what a terminal's encoding has no character for.

    A `?` would make two labels look alike, and an error would lose the rest.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_exactly(data: str | bytes) -> None:
    """Write to standard output: text in UTF-8, unless it goes to a terminal that has another encoding."""
    if isinstance(data, str) and sys.stdout.isatty():
        sys.stdout.write(data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data.encode() if isinstance(data, str) else data)
        sys.stdout.buffer.flush()


def as_typed(word: str) -> str:
    """A word of the command line whose bytes Python could not read in the locale's encoding: they are UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return os.fsencode(word).decode(errors="replace")
    return word
