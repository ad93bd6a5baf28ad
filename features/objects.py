"""Objects in storage: one way to reach `s3://` and `file://`, the write that happens once, the atomic change."""

import fcntl
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, ObjectStore, S3Store

from features.errors import InvalidSetting
from features.faults import REFUSALS, UNKNOWN_OUTCOME, fault_of, is_fault, patience_s, persistently
from features.waits import goes_on

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import S3Config

CONNECT_TIMEOUT = timedelta(seconds=5)
# Of a download, each wait for the next bytes; of an upload, which obstore watches as a whole, all of it: 16 MB are the
# most that is ever put at once.
STALL_TIMEOUT = timedelta(seconds=30)
# A whole request with its body. A photo of 64 MiB gets through at 0.25 MB/s; what comes more slowly is a fault.
REQUEST_TIMEOUT = timedelta(seconds=300)
# A short hiccup need not reach our own retries, which see what kind of fault it is; after a time-out there is none.
_INNER_RETRIES = 3
_INNER_RETRY_TIMEOUT = timedelta(seconds=4)
_DELETED_AT_ONCE = 1000
_STRANGE_KEY = re.compile(r"^/|//|/\Z|(?:^|/)\.\.?(?:/|\Z)|[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Place:
    """A prefix in object storage: `file:///directory` or `s3://bucket/prefix`, without a trailing slash.

    A landing has a `name` beside it: the URI by which its home first called it, wherever it lies today.
    """

    uri: str
    s3_endpoint: str | None = None
    s3_region: str | None = None
    name: str | None = None

    @classmethod
    def at(cls, location: str, s3_endpoint: str | None = None, s3_region: str | None = None) -> "Place":
        """The place a person names: an `s3://` or `file://` URI, or a path of this machine.

        Raises InvalidSetting for any other scheme, for no name at all, and for one that is not in UTF-8.
        """
        if not location.strip():
            # Of a variable that is not set; the working directory would become a home.
            raise InvalidSetting("A place is named by an empty text; write a directory, file:// or s3://bucket/prefix.")
        scheme = urlsplit(location).scheme if "://" in location else ""
        if scheme == "s3":
            name = location.partition("://")[2].strip("/")
            if not name:
                raise InvalidSetting(f"{location!r} names no bucket; write s3://bucket or s3://bucket/prefix.")
            return cls(f"s3://{name}", s3_endpoint, s3_region)
        if not scheme and location.lower().startswith(("s3:", "s3a:")):
            # A slip of the pen; photos would be kept in a directory of that name.
            raise InvalidSetting(f"{location!r} lacks a slash; write s3://bucket/prefix, or ./ before a directory.")
        if scheme not in ("", "file"):
            raise InvalidSetting(f"{location!r} is not supported; use a directory, file:// or s3://bucket/prefix.")
        directory = os.path.normpath(Path(location.removeprefix("file://")).expanduser().absolute())
        check_is_unicode(directory)
        return cls(f"file://{directory}")

    @property
    def is_local(self) -> bool:
        return self.uri.startswith("file://")

    @property
    def directory(self) -> Path:
        """The directory of a local place."""
        return Path(self.uri.removeprefix("file://"))

    @property
    def bucket_and_prefix(self) -> tuple[str, str]:
        """The bucket and the prefix (possibly empty) of a place on S3."""
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        return bucket, prefix

    def child(self, name: str) -> "Place":
        return replace(self, uri=f"{self.uri}/{name}", name=None)

    def uri_of(self, key: str) -> str:
        """Where an object lies today."""
        return printable(f"{self.uri}/{key}")

    @property
    def source(self) -> str:
        """The name of a landing: what plans, tables and hashes call it, though it has moved since."""
        return self.name or self.uri

    def source_of(self, key: str) -> str:
        """What the tables call an object of a landing."""
        return printable(f"{self.source}/{key}")

    @property
    def store(self) -> ObjectStore:
        """The connection to this place. Raises FileNotFoundError for a directory that does not exist."""
        return _open_store(self, stall_timeout())

    def create(self) -> None:
        """Make the directory of a place on disk; on S3 there is nothing to make."""
        if self.is_local:
            self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def table_location(self) -> str:
        """This place for `deltalake`, which reads a file URI with a '#' or '?' in it as something else."""
        return str(self.directory) if self.is_local else self.uri

    def table_options(self) -> dict[str, str]:
        """Storage options for `deltalake`, which opens its own connection to the same place."""
        if self.is_local:
            return {}
        # deltalake knows no limit for a stall alone (1.6.6 passes `read_timeout` over), so the whole request has it.
        whole = min(STALL_TIMEOUT, timedelta(seconds=patience_s()))
        options = {"conditional_put": "etag", "timeout": _in_ms(whole)}
        options |= {"connect_timeout": _in_ms(min(CONNECT_TIMEOUT, whole)), "max_retries": str(_INNER_RETRIES)}
        options |= {"retry_timeout": _in_ms(min(_INNER_RETRY_TIMEOUT, whole / 2))}
        if self.s3_endpoint:
            options |= {"aws_endpoint": self.s3_endpoint, "aws_virtual_hosted_style_request": "false"}
            options |= {"aws_allow_http": "true"} if self.s3_endpoint.startswith("http://") else {}
        if self.s3_region:
            options["aws_region"] = self.s3_region
        return options


def check_is_unicode(directory: str) -> None:
    """Raises InvalidSetting for a directory whose name is not in UTF-8: the tables' library takes none."""
    try:
        directory.encode()
    except UnicodeEncodeError as error:
        raise InvalidSetting(
            f"{directory!a} has a name that is not in UTF-8; rename it, or choose another directory."
        ) from error


def stall_timeout() -> timedelta:
    """How long a request may go without a byte: storage that hangs is asked at least twice within the patience."""
    return min(STALL_TIMEOUT, timedelta(seconds=patience_s() / 2))


def printable(text: str) -> str:
    """Text that any UTF-8 column can hold: a file name on disk need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def composed(text: str) -> str:
    """Text with each accent in one character with its letter (Unicode NFC): systems differ in how they write it."""
    return unicodedata.normalize("NFC", text)


def is_plain_key(key: str) -> bool:
    """Whether obstore addresses exactly this key: it has no empty, '.' or '..' segment and no control character.

    Of others it drops a slash at an end, so that another object answers, or it raises ValueError.
    """
    return _STRANGE_KEY.search(key) is None


def read(place: Place, key: str) -> bytes:
    """The bytes of one object.

    Raises FileNotFoundError when it is not there, StorageRefused, StorageUnavailable when storage does not answer.
    """
    try:
        return persistently(f"read {place.uri_of(key)}", lambda: bytes(obstore.get(place.store, key).bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(place.uri_of(key)) from None


def read_if_there(place: Place, key: str) -> bytes | None:
    """The bytes of one object, or None when it does not exist."""
    try:
        return read(place, key)
    except FileNotFoundError:
        return None


def write_once(place: Place, key: str, body: bytes) -> bytes:
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

    return persistently(f"write {place.uri_of(key)}", create_or_look, again=UNKNOWN_OUTCOME)


def overwrite(place: Place, key: str, body: bytes) -> None:
    """Put an object, whatever was there. Raises StorageRefused, StorageUnavailable when storage does not answer."""

    def put() -> None:
        place.create()
        obstore.put(place.store, key, body)

    persistently(f"write {place.uri_of(key)}", put, again=UNKNOWN_OUTCOME)


def download(place: Place, key: str, file: Path) -> bool:
    """Write an object to a file piece by piece, and say whether it was there. Raises as `read`, and leaves no half."""

    def write() -> None:
        with file.open("wb") as out:
            for piece in obstore.get(place.store, key):
                out.write(piece)
                goes_on()

    is_whole = False
    try:
        persistently(f"read {place.uri_of(key)} into {file}", write)
        is_whole = True
    except FileNotFoundError:
        return False
    finally:
        if not is_whole:
            file.unlink(missing_ok=True)
    return True


def upload(place: Place, key: str, file: Path) -> None:
    """Put a file, whatever was there, in parts when it is large. Raises StorageRefused, StorageUnavailable."""
    place.create()
    persistently(f"write {place.uri_of(key)}", lambda: obstore.put(place.store, key, file), again=UNKNOWN_OUTCOME)


def change(place: Place, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
    """Replace an object by what `edit` makes of it (None: it is not there), as if nobody else wrote, and return that.

    `edit` is called again when somebody did, and when the answer to a write was lost; it must find its own work done
    then. What `edit` raises leaves the object as it is. Raises StorageRefused, and StorageUnavailable at the deadline.
    Protocol: `If-Match` and `If-None-Match` (Amazon S3 conditional writes); a lock on the directory on disk.
    """

    def change_alone() -> bytes:
        place.create()
        with _locked(place):
            return _change_once(place, key, edit)

    return persistently(f"change {place.uri_of(key)}", change_alone, again=UNKNOWN_OUTCOME)


def _read_if_there_now(place: Place, key: str) -> bytes | None:
    try:
        return bytes(obstore.get(place.store, key).bytes())
    except (NotFoundError, FileNotFoundError):
        return None


def _change_once(place: Place, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
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
def _locked(place: Place) -> Iterator[None]:
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


def keys_below(place: Place, after: str | None = None) -> Iterator[str]:
    """Every key below a place, or every key that sorts behind `after`; nothing when the place does not exist.

    Raises StorageRefused, StorageUnavailable.
    """
    return (meta["path"] for meta in _listed(place, after))


def old_keys(place: Place, age: timedelta) -> Iterator[str]:
    """Every key below a place whose object was written longer ago than `age`, by the clock of this machine."""
    before = datetime.now(UTC) - age
    return (meta["path"] for meta in _listed(place) if meta["last_modified"] < before)


def sizes_below(place: Place) -> dict[str, int]:
    """Every key below a place, with the size of its object in bytes; nothing when the place does not exist."""
    return {meta["path"]: meta["size"] for meta in _listed(place)}


def delete_all(place: Place, keys: Iterable[str]) -> int:
    """Delete objects, a thousand a request on S3, and say how many; those that are gone already count too.

    Raises StorageRefused, StorageUnavailable.
    """
    deleted = 0
    remaining = iter(keys)
    while some := list(itertools.islice(remaining, _DELETED_AT_ONCE)):
        persistently(f"delete from {place.uri}", partial(_delete, place, some))
        deleted += len(some)
    return deleted


def _delete(place: Place, keys: list[str]) -> None:
    try:
        obstore.delete(place.store, keys)
    except (NotFoundError, FileNotFoundError):
        # On disk the others are deleted, too, when one is gone; this says only that one was.
        return


def _listed(place: Place, after: str | None = None) -> "list[ObjectMeta]":
    def listed() -> "list[ObjectMeta]":
        found: list[ObjectMeta] = []
        for page in obstore.list(place.store, offset=after):
            found += page
            goes_on()
        return found

    try:
        return persistently(f"list {place.uri}", listed)
    except FileNotFoundError:
        return []


@lru_cache(maxsize=64)
def _open_store(place: Place, stall: timedelta) -> ObjectStore:
    if place.is_local:
        if not place.directory.is_dir():
            raise FileNotFoundError(place.uri)
        return LocalStore(place.directory)
    bucket, prefix = place.bucket_and_prefix
    config: S3Config = {"bucket": bucket, "conditional_put": "etag"}
    if place.s3_endpoint:
        config |= {"endpoint": place.s3_endpoint, "virtual_hosted_style_request": False}
    if place.s3_region:
        config["region"] = place.s3_region
    return S3Store(
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": bool(place.s3_endpoint and place.s3_endpoint.startswith("http://")),
            "connect_timeout": min(CONNECT_TIMEOUT, stall),
            "read_timeout": stall,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": _INNER_RETRIES, "retry_timeout": min(_INNER_RETRY_TIMEOUT, stall / 2)},
    )


def _in_ms(duration: timedelta) -> str:
    return f"{duration / timedelta(milliseconds=1):.0f}ms"
