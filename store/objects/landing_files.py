"""Every file below a directory on disk: real folders first, then the targets of links, each real folder once."""

import errno
import os
import queue
import shutil
import stat
import threading
import uuid
from collections import Counter, deque
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
class SkippedFiles:
    """What a listing skipped on purpose, counted by kind, with an example of each.

    Kinds: `hidden`, `unfinished` and `system` names, a `link` not followed, a `home`, and `unreadable` entries.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, key: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, printable(key))


def reason_to_skip(key: str) -> str | None:
    """The kind of a key that is no photo's, or None for a photo's key.

    A name in it begins with a dot or an underscore, or is a file manager's, or it ends like an unfinished download.
    """
    segments = key.lower().split("/")
    if any(segment.startswith((".", "_")) and segment not in (".", "..") for segment in segments):
        return "hidden"
    if segments[-1].endswith(_UNFINISHED_ENDINGS):
        return "unfinished"
    if segments[-1].endswith(_SYSTEM_ENDING) or not _SYSTEM_NAMES.isdisjoint(segments):
        return "system"
    return None


def files_below(directory: Path, avoid: Sequence[Path] = (), skipped: SkippedFiles | None = None) -> Iterator[File]:
    """Every regular file below a directory; nothing when it does not exist.

    Links are followed after all real folders, in the order of names, unless a link leads to one of `avoid`, into a home
    or to a folder around the directory, or belongs to another user. No folder is walked twice.
    With `skipped`, an entry that cannot be read is skipped and counted there while others of its folder can be read.
    Raises StorageUnavailable when a real folder cannot be listed; without `skipped`, for any entry.
    """
    return _Walk(directory, avoid, skipped).files()


def folders_below(directory: Path, avoid: Sequence[Path] = ()) -> list[str]:
    """The path of every folder that `files_below` walks, and of every link to one; inner folders come later."""
    walk = _Walk(directory, avoid, None)
    deque(walk.files(), maxlen=0)
    return walk.folders


def is_reached_by_link(directory: Path, path: Path) -> bool:
    """Whether a path below a directory is a link, or leads through one."""
    return _target(path) != _target(directory) / path.relative_to(directory)


def _target(path: Path) -> Path:
    # Not Path.resolve(): of a link that leads to itself it raises no OSError.
    return Path(os.path.realpath(path, strict=True))


class _Walk:
    def __init__(self, directory: Path, avoid: Sequence[Path], skipped: SkippedFiles | None) -> None:
        self._directory = directory
        self._avoid = [Path(os.path.realpath(path)) for path in avoid]
        self._is_complete = skipped is None
        self._skipped = skipped if skipped is not None else SkippedFiles()
        self._links: list[str] = []
        self._walked: set[tuple[int, int]] = set()
        self.folders: list[str] = []

    def files(self) -> Iterator[File]:
        yield from self._below("", self._raise)
        while self._links:
            # Links below a link's target are followed after all others.
            links, self._links = sorted(self._links), []
            while links:
                followed: list[str] = []
                yield from self._follow(links, followed)
                links = links[len(followed) :]

    def _follow(self, links: Sequence[str], followed: list[str]) -> Iterator[File]:
        """Follow links in a thread of their own, up to the first that does not answer."""
        found: queue.Queue[File | str | Exception | None] = queue.Queue(_FOUND_AHEAD)

        def work() -> None:
            try:
                for link in links:
                    found.put(link)
                    for file in self._through(link):
                        found.put(file)
                found.put(None)
            except Exception as error:
                # The caller's thread raises it.
                found.put(error)

        threading.Thread(target=work, name="links", daemon=True).start()
        while True:
            try:
                item = found.get(timeout=LINK_ANSWERS_S)
            except queue.Empty:
                self._skip(followed[-1], TimeoutError(errno.ETIMEDOUT, "no answer came"))
                return
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, str):
                followed.append(item)
            else:
                yield item

    def _through(self, link: str) -> Iterator[File]:
        path = self._directory / link
        try:
            if not self._may_follow(path):
                self._skipped.add("link", link)
                return
            status = path.stat()
        except OSError as error:
            self._skip(link, error)
            return
        if stat.S_ISREG(status.st_mode):
            yield File(link, status)
        elif stat.S_ISDIR(status.st_mode):
            yield from self._below(link, self._skip)

    def _may_follow(self, path: Path) -> bool:
        owner = path.lstat().st_uid
        if owner not in (os.geteuid(), self._directory.stat().st_uid):
            return False
        target, root = _target(path), _target(self._directory)
        if target == root or target in root.parents or any(map(target.is_relative_to, self._avoid)):
            return False
        # The landing's own home lies around it.
        others = (folder for folder in (target, *target.parents) if folder not in root.parents)
        return target.is_relative_to(root) or not any(map(is_home, others))

    def _below(self, folder: str, unreadable: Callable[[str, OSError], None]) -> Iterator[File]:
        folders = [folder]
        while folders:
            folder = folders.pop()
            path = self._directory / folder
            try:
                if self._is_new(folder, path.stat()):
                    with os.scandir(path) as entries:
                        yield from self._files(folder, list(entries), folders, unreadable)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    unreadable(folder, error)

    def _is_new(self, folder: str, status: os.stat_result) -> bool:
        identity = (status.st_dev, status.st_ino)
        if identity in self._walked:
            return False
        self._walked.add(identity)
        if folder and is_home(self._directory / folder):
            self._skipped.add("home", folder)
            return False
        if folder:
            self.folders.append(folder)
        return True

    def _files(
        self,
        folder: str,
        entries: "list[os.DirEntry[str]]",
        folders: list[str],
        unreadable: Callable[[str, OSError], None],
    ) -> Iterator[File]:
        prefix = f"{folder}/" if folder else ""
        failed: dict[str, OSError] = {}
        readable = 0
        for entry in entries:
            key = prefix + entry.name
            try:
                if entry.is_symlink():
                    self._links.append(key)
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(key)
                    continue
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                failed[key] = error
                continue
            readable += 1
            if stat.S_ISREG(status.st_mode):
                yield File(key, status)
        for key, failure in failed.items():
            # A single unreadable entry is skipped; when a folder has no readable one, the disk fails.
            (self._skip if readable or failure.errno in _GONE else unreadable)(key, failure)

    def _raise(self, key: str, error: OSError) -> None:
        raise storage_error(f"list {self._directory / key}", error, key) from error

    def _skip(self, key: str, error: OSError) -> None:
        if error.errno in _GONE:
            return
        if self._is_complete:
            self._raise(key, error)
        self._skipped.add("unreadable", key)


def move_file(path: Path, target: Path) -> None:
    """Give a file another name, also on another disk; under the new name there is the whole file or none."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another disk. What is stored under this name counts as the photo, so it must be whole.
        beside = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            shutil.copy2(path, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        path.unlink()
