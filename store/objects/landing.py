"""Landed objects: listing them, fetching exactly one version, archiving or deleting it."""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import obstore

from features.rejects import Reason, Rejected
from store.objects.faults import Fault, fault_of, is_fault, reason, retry_storage
from store.objects.landing_files import SkippedFiles, files_below, is_reached_by_link, move_file, reason_to_skip
from store.objects.location import StorageLocation, is_plain_key, printable, to_nfc
from store.objects.s3 import bucket_and_key, list_in_pages, s3_client

if TYPE_CHECKING:
    from obstore import GetOptions

Cleaning = Literal["keep", "archive", "delete"]

# Which folder of a key is its label, as a regular expression.
LAYOUT_PATTERNS = {"first-folder": r"^(?P<label>[^/]+)/", "last-folder": r"(?:^|/)(?P<label>[^/]+)/[^/]*$"}

_PAGE_FILES = 10_000
_ESCAPED_BYTE = printable("\udcff")[:4]
_REPLACED = "Another version stood there when it was read."


class ObjectAccessDenied(Rejected):
    """Storage refuses this object: a permission, its key, a lasting fault; `words` are what storage said."""

    def __init__(self, words: str, detail: str | None = None) -> None:
        super().__init__(Reason.UNREADABLE, detail or f"It may not be read: {words}.")
        self.words = words


@dataclass(frozen=True, slots=True)
class LandedObject:
    """One version of one object below the landing prefix.

    `arrived_at` is the time that storage has for the version: on disk the modification time, which a copy keeps.
    `first_visible_at` is when it can first have been seen in the landing; None where that is the same.
    """

    key: str
    size_bytes: int
    etag: str
    arrived_at: datetime
    first_visible_at: datetime | None = None

    @property
    def visible_at(self) -> datetime:
        """Since when the object can have been waiting."""
        return self.first_visible_at or self.arrived_at


def list_landed(landing: StorageLocation) -> Iterator[LandedObject]:
    """Every object below the landing prefix that has a photo's key, in no promised order. Raises StorageUnavailable."""
    return itertools.chain.from_iterable(list_pages(landing))


def list_pages(
    landing: StorageLocation, avoid: Sequence[StorageLocation] = (), skipped: SkippedFiles | None = None
) -> Iterator[list[LandedObject]]:
    """The same in pages of up to 1,000 objects on S3 and 10,000 on disk; `skipped` counts what is left out.

    On disk links are followed, but none to the locations in `avoid`.
    """
    skipped = SkippedFiles() if skipped is None else skipped
    if landing.is_local:
        files = landed_files(landing, avoid, skipped)
        pages = iter(lambda: list(itertools.islice(files, _PAGE_FILES)), [])
    else:
        pages = _pages_of_bucket(landing)
    return ([landed for landed in page if is_photo_key(landed.key, skipped)] for page in pages)


def is_photo_key(key: str, skipped: SkippedFiles | None = None) -> bool:
    """Whether somebody meant to drop a photo under this key, which is relative to the landing prefix.

    `skipped` counts a key with a `reason_to_skip`; a key that stands for a folder is not counted.
    """
    if not key or key.endswith("/"):
        return False
    kind = reason_to_skip(key)
    if kind is not None and skipped is not None:
        skipped.add(kind, key)
    return kind is None


def key_group(key_pattern: str, key: str, group: str) -> str | None:
    """The text of the group `label` or `subject` in a key, in NFC: a folder `pêche` is one label on all systems."""
    found = key_groups(key_pattern, key, group)
    return to_nfc(printable(found[0])) if found else None


def key_groups(key_pattern: str, key: str, group: str) -> list[str]:
    """The texts that a group of the pattern finds in a key, in NFC and as it is."""
    matches = (re.search(key_pattern, text) for text in (to_nfc(key), key))
    texts = (match.groupdict().get(group) for match in matches if match)
    return [text for text in texts if text is not None]


def changed_at_s(landing: StorageLocation, landed: LandedObject) -> float | None:
    """When this version of a file was last written or moved, in Unix seconds by the disk's clock; None if gone."""
    try:
        status = (landing.directory / landed.key).stat()
    except OSError:
        # A name that is not Unicode cannot be found again by its key; let the fetch say so in a reject.
        return 0.0 if _ESCAPED_BYTE in landed.key else None
    if _etag(status) != landed.etag:
        return None
    # Some network disks keep no time of the last change; a modification time can be set, also into the future.
    is_later = status.st_ctime < status.st_mtime <= time.time()
    return status.st_mtime if is_later else status.st_ctime


def stat_object(landing: StorageLocation, key: str) -> LandedObject | None:
    """The current version under a key, or None when there is none. Raises StorageRefused, StorageUnavailable."""
    stat = _stat_file if landing.is_local else _head_object
    try:
        return retry_storage(f"look up {landing.uri_of(key)}", lambda: stat(landing, key), photo=key)
    except FileNotFoundError:
        return None


def fetch(landing: StorageLocation, landed: LandedObject, archive: StorageLocation | None = None) -> bytes:
    """The bytes of exactly the version that was listed; from the archive, if one is given, when the landing lacks it.

    Raises Rejected as `fetch_once`, StorageRefused if all is refused, StorageUnavailable for a fault that stays.
    """
    return retry_storage(
        f"read {landing.uri_of(landed.key)}", lambda: fetch_once(landing, landed, archive), photo=landed.key
    )


def fetch_archived(archive: StorageLocation, landed: LandedObject) -> bytes:
    """The bytes of the version in the archive. Raises as `fetch`."""
    # The name tells the version; S3 may give a copy another etag.
    archived = replace(landed, key=archived_name(landed))
    read = partial(_fetch, archive, archived, check_etag=False)
    return retry_storage(f"read {archive.uri_of(archived.key)}", read, photo=landed.key)


def fetch_once(landing: StorageLocation, landed: LandedObject, archive: StorageLocation | None = None) -> bytes:
    """The same with one try: a fault that may pass, or that concerns all objects, is raised as the library raised it.

    Raises Rejected when the version can never be had: `replaced`, `missing`, or `unreadable` (ObjectAccessDenied; an
    archived copy of another length; a key with a '.' or '..' segment).
    Protocol: `If-Match` on S3; on disk the size and modification time of the open file.
    """
    try:
        return _fetch(landing, landed)
    except Rejected as rejected:
        if archive is None or rejected.reason not in (Reason.MISSING, Reason.REPLACED):
            raise
        try:
            # The name tells the version; S3 may give a copy another etag.
            return _fetch(archive, replace(landed, key=archived_name(landed)), check_etag=False)
        except Rejected as archived:
            raise (rejected if archived.reason is Reason.MISSING else archived) from None


def _fetch(landing: StorageLocation, landed: LandedObject, check_etag: bool = True) -> bytes:
    read = _read_file if landing.is_local else _read_object
    try:
        return read(landing, landed, check_etag)
    except Exception as error:
        fault = fault_of(error) if is_fault(error) else None
        if fault is Fault.MISSING and _ESCAPED_BYTE in landed.key:
            raise Rejected(Reason.UNREADABLE, "The file's name is not UTF-8; rename it.") from error
        if fault is Fault.MISSING:
            raise Rejected(Reason.MISSING, "It was gone when it was read.") from error
        if fault is Fault.CHANGED:
            raise Rejected(Reason.REPLACED, _REPLACED) from error
        if fault is Fault.REFUSED_OBJECT:
            raise ObjectAccessDenied(reason(error)) from error
        if fault is Fault.UNFIT_OBJECT:
            raise Rejected(Reason.UNREADABLE, f"It cannot be read: {reason(error)}.") from error
        raise


def archive_or_delete(
    landing: StorageLocation, archive: StorageLocation, landed: LandedObject, cleaning: Cleaning
) -> bool:
    """Archive or delete one processed object; returns whether it was still the version that was processed.

    A version that was uploaded meanwhile stays where it is, and so does an object that cannot be copied. Replay finds
    nothing left to do. Raises StorageRefused, StorageUnavailable.
    """

    def clear() -> bool:
        try:
            return archive_or_delete_once(landing, archive, landed, cleaning)
        except Exception as error:
            if is_fault(error) and fault_of(error) is Fault.UNFIT_OBJECT:
                return False
            raise

    return retry_storage(f"clear away {landing.uri_of(landed.key)}", clear, photo=landed.key)


def archive_or_delete_once(
    landing: StorageLocation, archive: StorageLocation, landed: LandedObject, cleaning: Cleaning
) -> bool:
    """The same with one try; every fault is raised as the library raised it.

    On S3 the copy and the delete are conditional on the etag; on disk the check comes right before the rename.
    """
    if cleaning == "keep":
        return False
    clear = _clear_file if landing.is_local else _clear_object
    try:
        return clear(landing, archive, landed, cleaning)
    except Exception as error:
        if is_fault(error) and fault_of(error) in (Fault.CHANGED, Fault.MISSING):
            return False
        raise


def delete_archived(archive: StorageLocation, landed: LandedObject) -> bool:
    """Delete an object's copy from the archive; returns whether there was one. Replay finds nothing left to do.

    Raises StorageRefused, StorageUnavailable.
    """
    name = archived_name(landed)
    if stat_object(archive, name) is None:
        # Where the bucket keeps versions, a delete would leave a mark of it.
        return False

    def delete() -> None:
        if archive.is_local:
            _path(archive, name).unlink(missing_ok=True)
        else:
            bucket, key = bucket_and_key(archive, name)
            s3_client(archive).delete_object(Bucket=bucket, Key=key)

    retry_storage(f"delete {archive.uri_of(name)}", delete, photo=landed.key)
    return True


def archived_name(landed: LandedObject) -> str:
    """The key below the archive: the etag goes before the ending, so that two versions never collide."""
    path, dot, ending = landed.key.rpartition(".")
    return f"{path}.{landed.etag}.{ending}" if dot and "/" not in ending else f"{landed.key}.{landed.etag}"


def archived_key(name: str) -> tuple[str, str]:
    """The key and the etag of an archived object: the inverse of `archived_name`; no etag for what it never made."""
    folder, slash, file = name.rpartition("/")
    parts = file.split(".")
    if len(parts) == 1:
        return name, ""
    etag = parts.pop(-2 if len(parts) > 2 else -1)
    return f"{folder}{slash}{'.'.join(parts)}", etag


def landed_files(
    location: StorageLocation, avoid: Sequence[StorageLocation] = (), skipped: SkippedFiles | None = None
) -> Iterator[LandedObject]:
    """Every file below a location on disk, whatever its name, as `files_below` finds it. Raises StorageUnavailable."""
    directories = [other.directory for other in avoid if other.is_local]
    for file in files_below(location.directory, directories, skipped):
        yield _landed(printable(file.key), file.status)


def _landed(key: str, status: os.stat_result) -> LandedObject:
    arrived_at, changed_at = (datetime.fromtimestamp(s, UTC) for s in (status.st_mtime, status.st_ctime))
    return LandedObject(key, status.st_size, _etag(status), arrived_at, changed_at)


def _etag(status: os.stat_result) -> str:
    # No inode: a home restored from a backup keeps its modification times, and must not be taken for new.
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _stat_file(landing: StorageLocation, key: str) -> LandedObject:
    return _landed(key, _path(landing, key).stat())


def _head_object(landing: StorageLocation, key: str) -> LandedObject:
    # Not obstore: it cannot address some of the keys that a listing shows.
    bucket, whole_key = bucket_and_key(landing, key)
    head = s3_client(landing).head_object(Bucket=bucket, Key=whole_key)
    return LandedObject(key, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].astimezone(UTC))


def _pages_of_bucket(landing: StorageLocation) -> Iterator[list[LandedObject]]:
    # Not obstore: one key with an empty or dotted segment, which anybody may upload, fails its whole listing.
    _, below = bucket_and_key(landing, "")
    markers = {"NextContinuationToken": "ContinuationToken"}
    for page in list_in_pages(landing, landing.uri, "list_objects_v2", markers):
        yield [listed_object(entry, below) for entry in page.get("Contents", [])]


def listed_object(entry: Mapping[str, Any], below: str) -> LandedObject:
    """An entry in a listing of S3, with its key below a prefix."""
    arrived_at = entry["LastModified"].astimezone(UTC)
    return LandedObject(entry["Key"].removeprefix(below), entry["Size"], entry["ETag"].strip('"'), arrived_at)


def _read_file(landing: StorageLocation, landed: LandedObject, check_etag: bool) -> bytes:
    with _path(landing, landed.key).open("rb") as file:
        body = file.read(landed.size_bytes + 1)
        status = os.fstat(file.fileno())
    if check_etag and _etag(status) != landed.etag:
        raise Rejected(Reason.REPLACED, _REPLACED)
    if status.st_size != landed.size_bytes:
        raise _wrong_copy(status.st_size, landed)
    return _checked(body, landed)


def _path(location: StorageLocation, key: str) -> Path:
    # A key of S3 that is looked for in an archive on disk could lead out of it.
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise FileNotFoundError(location.uri_of(key))
    return location.directory / key


def _read_object(landing: StorageLocation, landed: LandedObject, check_etag: bool) -> bytes:
    if any(segment in (".", "..") for segment in landed.key.split("/")):
        # Clients and servers on the way to the bucket may take it for another key.
        raise Rejected(Reason.UNREADABLE, "The key has a '.' or '..' segment; upload it under another name.")
    size_bytes, body = _get_object(landing, landed.key, landed.etag if check_etag else None)
    if size_bytes != landed.size_bytes and not check_etag:
        raise _wrong_copy(size_bytes, landed)
    if size_bytes != landed.size_bytes:
        raise Rejected(Reason.REPLACED, f"It has {size_bytes} bytes, not {landed.size_bytes} as announced.")
    return _checked(body(), landed)


def _get_object(location: StorageLocation, key: str, etag: str | None) -> tuple[int, Callable[[], bytes]]:
    """The size of exactly this object, if it has this etag, and how to get its bytes."""
    bucket, whole_key = bucket_and_key(location, key)
    if is_plain_key(whole_key):
        options: GetOptions = {} if etag is None else {"if_match": f'"{etag}"'}
        plain = obstore.get(location.store, key, options=options)
        return plain.meta["size"], lambda: bytes(plain.bytes())
    get = partial(s3_client(location).get_object, Bucket=bucket, Key=whole_key)
    found = get() if etag is None else get(IfMatch=f'"{etag}"')
    return found["ContentLength"], found["Body"].read


def _wrong_copy(size_bytes: int, landed: LandedObject) -> Rejected:
    # Without an etag to compare, the name tells the version, and so the length is final.
    return Rejected(
        Reason.UNREADABLE,
        f"Its copy in the archive has {size_bytes} bytes, but the photo had {landed.size_bytes} when it landed: put "
        "the whole file back there and retry, or upload it again.",
    )


def _checked(body: bytes, landed: LandedObject) -> bytes:
    # It is the right version, so only the transfer can have cut it.
    if len(body) != landed.size_bytes:
        raise ConnectionError(f"{len(body)} of {landed.size_bytes} bytes came")
    return body


def _clear_file(landing: StorageLocation, archive: StorageLocation, landed: LandedObject, cleaning: Cleaning) -> bool:
    path = landing.directory / landed.key
    # What a link leads to is not ours to move.
    is_gone = changed_at_s(landing, landed) is None or not path.exists()
    if is_gone or is_reached_by_link(landing.directory, path):
        return False
    if cleaning == "delete":
        path.unlink(missing_ok=True)
        return True
    target = archive.directory / archived_name(landed)
    target.parent.mkdir(parents=True, exist_ok=True)
    move_file(path, target)
    return True


def _clear_object(landing: StorageLocation, archive: StorageLocation, landed: LandedObject, cleaning: Cleaning) -> bool:
    client = s3_client(landing)
    bucket, key = bucket_and_key(landing, landed.key)
    etag = f'"{landed.etag}"'
    if cleaning == "archive":
        archive_bucket, archive_key = bucket_and_key(archive, archived_name(landed))
        client.copy_object(
            Bucket=archive_bucket,
            Key=archive_key,
            CopySource={"Bucket": bucket, "Key": key},
            CopySourceIfMatch=etag,
        )
    client.delete_object(Bucket=bucket, Key=key, IfMatch=etag)
    return True
