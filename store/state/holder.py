"""Who holds a home or a lease, and whether that process still lives."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Process:
    """A process as its system knows it; what only Linux tells is None elsewhere.

    `start_ticks` is when it started, in clock ticks since the boot: the next process of this id has another start.
    """

    host: str
    process_id: int
    boot_id: str | None = None
    pid_namespace: str | None = None
    start_ticks: int | None = None

    def __str__(self) -> str:
        return f"{self.host}, process {self.process_id}"


def this_process() -> Process:
    """The process that asks."""
    process = Process(socket.gethostname(), os.getpid())
    stat = _stat("self")
    # In a container that sees its host's /proc the numbers there are not its own.
    if stat is None or stat.process_id != process.process_id:
        return process
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Process(process.host, process.process_id, boot_id, str(Path("/proc/self/ns/pid").readlink()), stat.ticks)
    except OSError:
        return process


def is_gone(process: Process) -> bool:
    """Whether this machine shows that a process has ended; False also when it cannot tell."""
    here = this_process()
    if None in (here.boot_id, process.start_ticks):
        return False
    if (process.boot_id, process.pid_namespace) != (here.boot_id, here.pid_namespace):
        return False
    try:
        os.kill(process.process_id, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # It is another user's, whose entry in /proc may be hidden.
        pass
    stat = _stat(str(process.process_id))
    # What has ended stays as a zombie until its parent asks for its exit code.
    return stat is not None and (stat.ticks != process.start_ticks or stat.state in "ZX")


class SignsOfLife:
    """Tells life from death by signs that change, and by this process's own clock: those of two machines may differ."""

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._last: object = None
        self._since_s = time.monotonic()

    def judge(self, sign: object) -> Literal["unknown", "alive", "dead"]:
        """What the newest sign tells: "alive" if it is another one than before, "dead" after so long of the same."""
        now_s = time.monotonic()
        before, self._last = self._last, sign
        if sign != before:
            self._since_s = now_s
            return "unknown" if before is None else "alive"
        return "dead" if now_s - self._since_s > self._dead_after_s else "unknown"


@dataclass(frozen=True)
class _Stat:
    process_id: int
    state: str
    ticks: int


def _stat(process: str) -> _Stat | None:
    try:
        text = Path("/proc", process, "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything. Source: proc_pid_stat(5).
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(int(text.partition(" ")[0]), state=fields[0], ticks=int(fields[19]))
