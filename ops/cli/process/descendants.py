"""The processes that this one started, and those that they started."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_DEADLINE_S = 3.0
_POLL_S = 0.02


def kill_descendants() -> None:
    """Kill all of them, and return when they have ended."""
    found: set[int] = set()
    # A stopped process starts no other one, which would be nobody's descendant after the kill.
    while started := _children_of(os.getpid()) - found:
        _signal(started, signal.SIGSTOP)
        found |= started
    _signal(found, signal.SIGKILL)
    gives_up_at_s = time.monotonic() + _DEADLINE_S
    while found & {process for process, _ in _running_processes()} and time.monotonic() < gives_up_at_s:
        time.sleep(_POLL_S)


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _children_of(ancestor: int) -> set[int]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process, parent in _running_processes():
        children[parent].append(process)
    found = list(children[ancestor])
    for process in found:
        found += children[process]
    return set(found)


def _running_processes() -> Iterator[tuple[int, int]]:
    """Every process that has not ended, with its parent."""
    if not Path("/proc/self/stat").exists():
        with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,state="], stdout=subprocess.PIPE, text=True) as listing:
            for process, parent, state in (line.split()[:3] for line in listing.communicate()[0].splitlines()):
                if not state.startswith("Z") and int(process) != listing.pid:
                    yield int(process), int(parent)
        return
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name of the program, in parentheses, may hold anything. Source: proc_pid_stat(5).
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                yield int(folder.name), int(parent)
