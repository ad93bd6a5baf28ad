"""The processes that this one started, and those that they started."""

import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def kill_descendants() -> None:
    """Kill all of them."""
    for process in _descendants():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _descendants() -> list[int]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process, parent in _processes():
        children[parent].append(process)
    found = list(children[os.getpid()])
    for process in found:
        found += children[process]
    return found


def _processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        for process, parent in map(str.split, listed.splitlines()):
            yield int(process), int(parent)
        return
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name of the program, in parentheses, may hold anything. Source: proc_pid_stat(5).
            yield int(folder.name), int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
