"""Objects in storage: read, listed, deleted, written once, changed as if nobody else wrote."""

import fcntl
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import NotFoundError

from store.objects.faults import REFUSALS, UNKNOWN_OUTCOME, fault_of, is_fault, retry_storage
from store.objects.waits import note_progress

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
from store.objects.location import StorageLocation

_DELETED_AT_ONCE = 1000


def read(place: StorageLocation, key: str) -> bytes:
    """The bytes of one object.

    Raises FileNotFoundError when it is not there, StorageRefused, StorageUnavailable when storage does not answer.
    """
    try:
        return retry_storage(f"read {place.uri_of(key)}", lambda: bytes(obstore.get(place.store, key).bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(place.uri_of(key)) from None


def read_if_exists(place: StorageLocation, key: str) -> bytes | None:
    """The bytes of one object, or None when it does not exist."""
    try:
        return read(place, key)
    except FileNotFoundError:
        return None


def write_once(place: StorageLocation, key: str, body: bytes) -> bytes:
    """Create an object unless it exists, and return the bytes that stand there afterwards.

    S3 may carry out a write and lose the answer, so a failed put is followed by a look at what is there: the
    caller recognises its own write by a nonce in the returned bytes. Replay returns the first write's bytes.
    Raises StorageRefused, and StorageUnavailable when neither the write nor the look succeeds before the deadline.
    Protocol: `If-None-Match: *` (Amazon S3 conditional writes); a hard link on disk.
    """

    def create_or_look() -> bytes:
        place.create()
        try:
            obstore.put(place.store, key, body, mode="create")
        except Exception as error:
            if not is_fault(error) or fault_of(error) in REFUSALS:
                raise
            standing = _read_if_there_now(place, key)
            if standing is None:
                raise
            return standing
        return body

    return retry_storage(f"write {place.uri_of(key)}", create_or_look, again=UNKNOWN_OUTCOME)


def overwrite(place: StorageLocation, key: str, body: bytes) -> None:
    """Put an object, whatever was there. Raises StorageRefused, StorageUnavailable when storage does not answer."""

    def put() -> None:
        place.create()
        obstore.put(place.store, key, body)

    retry_storage(f"write {place.uri_of(key)}", put, again=UNKNOWN_OUTCOME)


def download(place: StorageLocation, key: str, file: Path) -> bool:
    """Write an object to a file piece by piece, and say whether it was there. Raises as `read`, and leaves no half."""

    def write() -> None:
        with file.open("wb") as out:
            for piece in obstore.get(place.store, key):
                out.write(piece)
                note_progress()

    is_whole = False
    try:
        retry_storage(f"read {place.uri_of(key)} into {file}", write)
        is_whole = True
    except FileNotFoundError:
        return False
    finally:
        if not is_whole:
            file.unlink(missing_ok=True)
    return True


def upload(place: StorageLocation, key: str, file: Path) -> None:
    """Put a file, whatever was there, in parts when it is large. Raises StorageRefused, StorageUnavailable."""
    place.create()
    retry_storage(f"write {place.uri_of(key)}", lambda: obstore.put(place.store, key, file), again=UNKNOWN_OUTCOME)


def change(place: StorageLocation, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
    """Replace an object by what `edit` makes of it (None: it is not there), as if nobody else wrote, and return that.

    `edit` is called again when somebody did, and when the answer to a write was lost; it must find its own work done
    then. What `edit` raises leaves the object as it is. Raises StorageRefused, and StorageUnavailable at the deadline.
    Protocol: `If-Match` and `If-None-Match` (Amazon S3 conditional writes); a lock on the directory on disk.
    """

    def change_alone() -> bytes:
        place.create()
        with _locked(place):
            return _change_once(place, key, edit)

    return retry_storage(f"change {place.uri_of(key)}", change_alone, again=UNKNOWN_OUTCOME)


def _read_if_there_now(place: StorageLocation, key: str) -> bytes | None:
    try:
        return bytes(obstore.get(place.store, key).bytes())
    except (NotFoundError, FileNotFoundError):
        return None


def _change_once(place: StorageLocation, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
    try:
        found = obstore.get(place.store, key)
    except (NotFoundError, FileNotFoundError):
        body = edit(None)
        obstore.put(place.store, key, body, mode="create")
        return body
    before = bytes(found.bytes())
    body = edit(before)
    if body != before:
        unless_changed: UpdateVersion = {"e_tag": found.meta["e_tag"] or ""}
        obstore.put(place.store, key, body, mode="overwrite" if place.is_local else unless_changed)
    return body


@contextmanager
def _locked(place: StorageLocation) -> Iterator[None]:
    if not place.is_local:
        yield
        return
    directory = os.open(place.directory, os.O_RDONLY)
    try:
        # Not waiting here, so that a process that was stopped with the lock is waited for to the deadline only.
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(directory)


def keys_below(place: StorageLocation, after: str | None = None) -> Iterator[str]:
    """Every key below a place, or every key that sorts behind `after`; nothing when the place does not exist.

    Raises StorageRefused, StorageUnavailable.
    """
    return (meta["path"] for meta in _listed(place, after))


def old_keys(place: StorageLocation, age: timedelta) -> Iterator[str]:
    """Every key below a place whose object was written longer ago than `age`, by the clock of this machine."""
    before = datetime.now(UTC) - age
    return (meta["path"] for meta in _listed(place) if meta["last_modified"] < before)


def sizes_below(place: StorageLocation) -> dict[str, int]:
    """Every key below a place, with the size of its object in bytes; nothing when the place does not exist."""
    return {meta["path"]: meta["size"] for meta in _listed(place)}


def delete_all(place: StorageLocation, keys: Iterable[str]) -> int:
    """Delete objects, a thousand a request on S3, and say how many; those that are gone already count too.

    Raises StorageRefused, StorageUnavailable.
    """
    deleted = 0
    remaining = iter(keys)
    while some := list(itertools.islice(remaining, _DELETED_AT_ONCE)):
        retry_storage(f"delete from {place.uri}", partial(_delete, place, some))
        deleted += len(some)
    return deleted


def _delete(place: StorageLocation, keys: list[str]) -> None:
    try:
        obstore.delete(place.store, keys)
    except (NotFoundError, FileNotFoundError):
        # On disk the others are deleted, too, when one is gone; this says only that one was.
        return


def _listed(place: StorageLocation, after: str | None = None) -> "list[ObjectMeta]":
    def listed() -> "list[ObjectMeta]":
        found: list[ObjectMeta] = []
        for page in obstore.list(place.store, offset=after):
            found += page
            note_progress()
        return found

    try:
        return retry_storage(f"list {place.uri}", listed)
    except FileNotFoundError:
        return []
