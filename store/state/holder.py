"""The process that holds a home or a lease, and whether it still lives."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process as its system knows it; what only Linux knows is None elsewhere.

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
    """The current process."""
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
    """Whether a process has certainly ended; False also when this machine does not know."""
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
    """Observes signs that change while their owner lives; only this process's own clock counts.

    `dead` is a sign that has not changed for `dead_after_s`, if the last one is such a sign.
    """

    def __init__(self, dead_after_s: float) -> None:
        self.dead: object = None
        self._dead_after_s = dead_after_s
        self._last: object = None
        self._since_s = time.monotonic()

    def is_changed(self, sign: object) -> bool:
        """Whether the newest sign differs from the one before, so that its owner lives."""
        now_s = time.monotonic()
        before, self._last = self._last, sign
        if sign != before:
            self._since_s = now_s
        self.dead = sign if now_s - self._since_s > self._dead_after_s else None
        return before is not None and sign != before


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
