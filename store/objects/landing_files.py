"""Every file below a directory on disk: real folders first, then what links lead to, each real folder once."""

import errno
import os
import queue
import shutil
import stat
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.home import is_home
from store.objects.faults import storage_error
from store.objects.location import printable

# How long a link's other end may take for its next file. A network disk that hangs is not to hold up the others.
LINK_ANSWERS_S = 30.0

_UNFINISHED_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".swp", "~", "._copying_")
# What file managers, disk stations and Hadoop put beside files.
_SYSTEM_NAMES = {"@eadir", "thumbs.db", "desktop.ini"}
_SYSTEM_ENDING = "_$folder$"
_FOUND_AHEAD = 10_000
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class File:
    """A file as a walk found it: its path below the directory, and its status."""

    key: str
    status: os.stat_result


@dataclass
class PassedOver:
    """What a walk or a listing left out on purpose, counted by kind, with an example of each.

    Kinds: `hidden`, `unfinished` and `system` names, a `link` that is not followed, a `home` in the landing, and what
    is `unreadable`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, key: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, printable(key))


def why_passed_over(key: str) -> str | None:
    """Why nobody meant to drop a photo under this key; None for a photo's key.

    Names that begin with a dot or an underscore (the file's or a folder's), end like an unfinished download, or are
    those of file managers.
    """
    segments = key.lower().split("/")
    if any(segment.startswith((".", "_")) and segment not in (".", "..") for segment in segments):
        return "hidden"
    if segments[-1].endswith(_UNFINISHED_ENDINGS):
        return "unfinished"
    if segments[-1].endswith(_SYSTEM_ENDING) or not _SYSTEM_NAMES.isdisjoint(segments):
        return "system"
    return None


def files_below(directory: Path, avoid: Sequence[Path] = (), passed_over: PassedOver | None = None) -> Iterator[File]:
    """Every regular file below a directory; nothing when it does not exist.

    A link is followed after all real folders, in the order of names, unless it leads to one of `avoid`, into a home,
    to a folder around the directory, or belongs to another user; a folder that was walked already is not walked again.
    With `passed_over`, which is told, one entry that cannot be looked at is left out while others of its folder can be.
    Raises StorageUnavailable when a real folder cannot be listed; without `passed_over` for any entry.
    """
    walk = _Walk(directory, avoid, passed_over)
    yield from walk.real()
    yield from walk.linked()


def folders_below(directory: Path, avoid: Sequence[Path] = ()) -> list[str]:
    """The path of every folder that `files_below` walks, and of every link to one, those inside others later."""
    walk = _Walk(directory, avoid, None)
    for _ in walk.real():
        pass
    for _ in walk.linked():
        pass
    return walk.folders


def is_reached_by_link(directory: Path, path: Path) -> bool:
    """Whether a path below a directory is a link, or leads through one."""
    return _target(path) != _target(directory) / path.relative_to(directory)


def _target(path: Path) -> Path:
    # Not Path.resolve(): of a link that leads to itself it raises no OSError.
    return Path(os.path.realpath(path, strict=True))


class _Walk:
    def __init__(self, directory: Path, avoid: Sequence[Path], passed_over: PassedOver | None) -> None:
        self._directory = directory
        self._avoid = [Path(os.path.realpath(path)) for path in avoid]
        self._is_complete = passed_over is None
        self._passed_over = passed_over if passed_over is not None else PassedOver()
        self._links: list[str] = []
        self._walked: set[tuple[int, int]] = set()
        self.folders: list[str] = []

    def real(self) -> Iterator[File]:
        yield from self._below("", self._refuse)

    def linked(self) -> Iterator[File]:
        while self._links:
            # Links in what links lead to are followed after them.
            links, self._links = sorted(self._links), []
            while links:
                followed: list[str] = []
                yield from self._follow(links, followed)
                links = links[len(followed) :]

    def _follow(self, links: Sequence[str], followed: list[str]) -> Iterator[File]:
        """Follow links in a thread of its own, up to the first that does not answer."""
        found: queue.Queue[File | str | Exception | None] = queue.Queue(_FOUND_AHEAD)

        def work() -> None:
            try:
                for link in links:
                    found.put(link)
                    for file in self._through(link):
                        found.put(file)
                found.put(None)
            except Exception as error:
                # It is raised to whoever walks.
                found.put(error)

        threading.Thread(target=work, name="links", daemon=True).start()
        while True:
            try:
                item = found.get(timeout=LINK_ANSWERS_S)
            except queue.Empty:
                self._leave_out(followed[-1], TimeoutError(errno.ETIMEDOUT, "no answer came"))
                return
            match item:
                case None:
                    return
                case str():
                    followed.append(item)
                case Exception():
                    raise item
                case _:
                    yield item

    def _through(self, link: str) -> Iterator[File]:
        path = self._directory / link
        try:
            if not self._may_follow(path):
                self._passed_over.add("link", link)
                return
            status = path.stat()
        except OSError as error:
            self._leave_out(link, error)
            return
        if stat.S_ISREG(status.st_mode):
            yield File(link, status)
        elif stat.S_ISDIR(status.st_mode):
            yield from self._below(link, self._leave_out)

    def _may_follow(self, path: Path) -> bool:
        owner = path.lstat().st_uid
        if owner not in (os.geteuid(), self._directory.stat().st_uid):
            return False
        target, root = _target(path), _target(self._directory)
        if target == root or target in root.parents or any(target.is_relative_to(place) for place in self._avoid):
            return False
        # The landing's own home lies around it.
        others = (folder for folder in (target, *target.parents) if folder not in root.parents)
        return target.is_relative_to(root) or not any(map(is_home, others))

    def _below(self, folder: str, unreadable: Callable[[str, OSError], None]) -> Iterator[File]:
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            path = self._directory / folder
            try:
                if self._is_new(folder, path.stat()):
                    with os.scandir(path) as entries:
                        yield from self._files(folder, list(entries), waiting, unreadable)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    unreadable(folder, error)

    def _is_new(self, folder: str, status: os.stat_result) -> bool:
        identity = (status.st_dev, status.st_ino)
        if identity in self._walked:
            return False
        self._walked.add(identity)
        if folder and is_home(self._directory / folder):
            self._passed_over.add("home", folder)
            return False
        if folder:
            self.folders.append(folder)
        return True

    def _files(
        self,
        folder: str,
        entries: "list[os.DirEntry[str]]",
        waiting: list[str],
        unreadable: Callable[[str, OSError], None],
    ) -> Iterator[File]:
        prefix = f"{folder}/" if folder else ""
        failed: dict[str, OSError] = {}
        looked_at = 0
        for entry in entries:
            key = prefix + entry.name
            try:
                if entry.is_symlink():
                    self._links.append(key)
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(key)
                    continue
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                failed[key] = error
                continue
            looked_at += 1
            if stat.S_ISREG(status.st_mode):
                yield File(key, status)
        for key, failure in failed.items():
            # One entry that cannot be looked at costs itself; a folder of which none can is a disk that fails.
            (self._leave_out if looked_at or failure.errno in _GONE else unreadable)(key, failure)

    def _refuse(self, key: str, error: OSError) -> None:
        raise storage_error(f"list {self._directory / key}", error, key) from error

    def _leave_out(self, key: str, error: OSError) -> None:
        if error.errno in _GONE:
            return
        if self._is_complete:
            self._refuse(key, error)
        self._passed_over.add("unreadable", key)


def move_file(path: Path, target: Path) -> None:
    """Give a file another name, also on another disk, where the name stands for the whole file or for none."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another disk: whole or not at all, for what stands under this name counts as the photo.
        beside = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            shutil.copy2(path, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        path.unlink()
