"""Objects in storage: read, listed, deleted, written once, changed atomically."""

import fcntl
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import NotFoundError

from store.objects.faults import REFUSALS, UNKNOWN_OUTCOME, fault_of, is_fault, retry_storage
from store.objects.location import StorageLocation
from store.objects.waits import note_progress

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion

_DELETED_AT_ONCE = 1000

_T = TypeVar("_T")


def read(location: StorageLocation, key: str) -> bytes:
    """The bytes of one object. Raises FileNotFoundError when it is not there, StorageRefused, StorageUnavailable."""
    body = read_if_exists(location, key)
    if body is None:
        raise FileNotFoundError(location.uri_of(key))
    return body


def read_if_exists(location: StorageLocation, key: str) -> bytes | None:
    """The bytes of one object, or None when it does not exist."""
    try:
        return retry_storage(f"read {location.uri_of(key)}", lambda: bytes(obstore.get(location.store, key).bytes()))
    except FileNotFoundError:
        return None


def write_once(location: StorageLocation, key: str, body: bytes) -> bytes:
    """Create an object unless it exists, and return the bytes that are stored afterwards.

    S3 may carry out a write and lose the answer, so the object is read after a failed put: the caller recognises its
    own write by a nonce in the returned bytes. Replay returns the first write's bytes.
    Raises StorageRefused, and StorageUnavailable when neither the write nor the read succeeds before the deadline.
    Protocol: `If-None-Match: *` (Amazon S3 conditional writes); a hard link on disk.
    """

    def create_or_read() -> bytes:
        location.create()
        try:
            obstore.put(location.store, key, body, mode="create")
        except Exception as error:
            if not is_fault(error) or fault_of(error) in REFUSALS:
                raise
            with suppress(NotFoundError, FileNotFoundError):
                return bytes(obstore.get(location.store, key).bytes())
            raise
        return body

    return retry_storage(f"write {location.uri_of(key)}", create_or_read, again=UNKNOWN_OUTCOME)


def overwrite(location: StorageLocation, key: str, content: bytes | Path) -> None:
    """Put bytes or a file, in parts when it is large, whatever was there. Raises StorageRefused, StorageUnavailable."""

    def put() -> None:
        location.create()
        obstore.put(location.store, key, content)

    retry_storage(f"write {location.uri_of(key)}", put, again=UNKNOWN_OUTCOME)


def download(location: StorageLocation, key: str, file: Path) -> bool:
    """Copy an object into a file in pieces; returns whether it exists. Raises as `read`, and leaves no half file."""

    def write() -> None:
        with file.open("wb") as out:
            for piece in obstore.get(location.store, key):
                out.write(piece)
                note_progress()

    try:
        retry_storage(f"read {location.uri_of(key)} into {file}", write)
        return True
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):
            return False
        raise


def change(location: StorageLocation, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
    """Replace an object atomically by what `edit` returns for it (None: it does not exist), and return that.

    `edit` is called again when another process wrote meanwhile, and when the answer to a write was lost; then it must
    recognise its own work. When `edit` raises, the object stays as it is. Raises StorageRefused, StorageUnavailable.
    Protocol: `If-Match` and `If-None-Match` (Amazon S3 conditional writes); a lock on the directory on disk.
    """

    def change_once() -> bytes:
        location.create()
        with _locked(location):
            try:
                found = obstore.get(location.store, key)
            except (NotFoundError, FileNotFoundError):
                body = edit(None)
                obstore.put(location.store, key, body, mode="create")
                return body
            before = bytes(found.bytes())
            body = edit(before)
            if body != before:
                unless_changed: UpdateVersion = {"e_tag": found.meta["e_tag"] or ""}
                obstore.put(location.store, key, body, mode="overwrite" if location.is_local else unless_changed)
            return body

    return retry_storage(f"change {location.uri_of(key)}", change_once, again=UNKNOWN_OUTCOME)


@contextmanager
def _locked(location: StorageLocation) -> Iterator[None]:
    if not location.is_local:
        yield
        return
    directory = os.open(location.directory, os.O_RDONLY)
    try:
        # It does not block, so that a stopped process that holds the lock is waited for to the deadline only.
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(directory)


def keys_below(location: StorageLocation, after: str | None = None) -> Iterator[str]:
    """Every key below a location that may not exist, or those that sort after `after`. Raises StorageUnavailable."""
    return (meta["path"] for meta in _list(location, after))


def old_keys(location: StorageLocation, age: timedelta) -> Iterator[str]:
    """Every key below a location whose object was written longer ago than `age`, by the clock of this machine."""
    before = datetime.now(UTC) - age
    return (meta["path"] for meta in _list(location) if meta["last_modified"] < before)


def sizes_below(location: StorageLocation) -> dict[str, int]:
    """Every key below a location, with the size of its object in bytes; nothing when the location does not exist."""
    return {meta["path"]: meta["size"] for meta in _list(location)}


def delete_all(location: StorageLocation, keys: Iterable[str]) -> int:
    """Delete objects; returns how many, with those that were gone already. Raises StorageUnavailable."""
    return delete_in_groups(location, keys, _delete)


def delete_in_groups(
    location: StorageLocation, things: Iterable[_T], delete: Callable[[StorageLocation, list[_T]], None]
) -> int:
    """Call `delete`, which must be safe to repeat, for a thousand each time; returns how many."""
    deleted = 0
    remaining = iter(things)
    while some := list(itertools.islice(remaining, _DELETED_AT_ONCE)):
        retry_storage(f"delete from {location.uri}", partial(delete, location, some))
        deleted += len(some)
    return deleted


def _delete(location: StorageLocation, keys: list[str]) -> None:
    try:
        obstore.delete(location.store, keys)
    except (NotFoundError, FileNotFoundError):
        # On disk the others are deleted, too, when one is gone; this says only that one was.
        return


def _list(location: StorageLocation, after: str | None = None) -> "list[ObjectMeta]":
    def list_pages() -> "list[ObjectMeta]":
        objects: list[ObjectMeta] = []
        for page in obstore.list(location.store, offset=after):
            objects += page
            note_progress()
        return objects

    try:
        return retry_storage(f"list {location.uri}", list_pages)
    except FileNotFoundError:
        return []
