"""Objects in storage: one way to reach `s3://` and `file://`, the write that happens once, the atomic change."""

import fcntl
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore, S3Store

from features.errors import InvalidSetting, StorageUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import S3Config

RETRY_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Place:
    """A prefix in object storage: `file:///directory` or `s3://bucket/prefix`, without a trailing slash."""

    uri: str
    s3_endpoint: str | None = None
    s3_region: str | None = None

    @classmethod
    def at(cls, location: str, s3_endpoint: str | None = None, s3_region: str | None = None) -> "Place":
        """The place a person names: an `s3://` or `file://` URI, or a path of this machine.

        Raises InvalidSetting for any other scheme.
        """
        scheme = urlsplit(location).scheme if "://" in location else ""
        if scheme == "s3":
            if not location.removeprefix("s3://").strip("/"):
                raise InvalidSetting(f"{location!r} names no bucket; write s3://bucket or s3://bucket/prefix.")
            return cls("s3://" + location.removeprefix("s3://").strip("/"), s3_endpoint, s3_region)
        if scheme not in ("", "file"):
            raise InvalidSetting(f"{location!r} is not supported; use a directory, file:// or s3://bucket/prefix.")
        directory = Path(location.removeprefix("file://")).expanduser().absolute()
        return cls(f"file://{os.path.normpath(directory)}")

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
        return replace(self, uri=f"{self.uri}/{name}")

    def uri_of(self, key: str) -> str:
        return printable(f"{self.uri}/{key}")

    @property
    def store(self) -> ObjectStore:
        """The connection to this place. Raises FileNotFoundError for a directory that does not exist."""
        return _open_store(self)

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
        options = {"conditional_put": "etag"}
        if self.s3_endpoint:
            options |= {"aws_endpoint": self.s3_endpoint, "aws_virtual_hosted_style_request": "false"}
            options |= {"aws_allow_http": "true"} if self.s3_endpoint.startswith("http://") else {}
        if self.s3_region:
            options["aws_region"] = self.s3_region
        return options


def printable(text: str) -> str:
    """Text that any UTF-8 column can hold: a file name on disk need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def read(place: Place, key: str) -> bytes:
    """The bytes of one object.

    Raises FileNotFoundError when it is not there, StorageUnavailable when storage does not answer.
    """
    try:
        return bytes(obstore.get(place.store, key).bytes())
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise StorageUnavailable(f"Cannot read {place.uri_of(key)}: {reason(error)}.") from error
        raise FileNotFoundError(place.uri_of(key)) from None
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"Cannot read {place.uri_of(key)}: {reason(error)}.") from error


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
    Raises StorageUnavailable when neither the write nor the look succeeds before the deadline.
    Protocol: `If-None-Match: *` (Amazon S3 conditional writes); a hard link on disk.
    """
    place.create()
    for wait_s in backoff_s():
        try:
            obstore.put(place.store, key, body, mode="create")
            return body
        except (AlreadyExistsError, FileExistsError):
            return read(place, key)
        except (NotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageUnavailable(f"Cannot write {place.uri_of(key)}: {reason(error)}.") from error
        except (BaseError, OSError) as error:
            failure = error
        standing = read_if_there(place, key)
        if standing is not None:
            return standing
        time.sleep(wait_s)
    raise StorageUnavailable(f"Cannot write {place.uri_of(key)}: {reason(failure)}.") from failure


def overwrite(place: Place, key: str, body: bytes) -> None:
    """Put an object, whatever was there. Raises StorageUnavailable when storage does not answer."""
    place.create()
    try:
        obstore.put(place.store, key, body)
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"Cannot write {place.uri_of(key)}: {reason(error)}.") from error


def change(place: Place, key: str, edit: Callable[[bytes | None], bytes]) -> bytes:
    """Replace an object by what `edit` makes of it (None: it is not there), as if nobody else wrote, and return that.

    `edit` is called again when somebody did, and when the answer to a write was lost; it must find its own work done
    then. What `edit` raises leaves the object as it is. Raises StorageUnavailable at the deadline.
    Protocol: `If-Match` and `If-None-Match` (Amazon S3 conditional writes); a lock on the directory on disk.
    """
    place.create()
    failure: Exception | None = None
    for wait_s in backoff_s():
        try:
            with _locked(place):
                return _change_once(place, key, edit)
        except (AlreadyExistsError, PreconditionError) as error:
            failure = error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageUnavailable(f"Cannot write {place.uri_of(key)}: {reason(error)}.") from error
        except (BaseError, OSError) as error:
            failure = error
        time.sleep(wait_s)
    raise StorageUnavailable(f"Cannot change {place.uri_of(key)}: {failure and reason(failure)}.") from failure


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
    """Every key below a place, or every key that sorts behind `after`; nothing when the place does not exist."""
    return (meta["path"] for meta in _listed(place, after))


def old_keys(place: Place, age: timedelta) -> Iterator[str]:
    """Every key below a place whose object was written longer ago than `age`, by the clock of this machine."""
    before = datetime.now(UTC) - age
    return (meta["path"] for meta in _listed(place) if meta["last_modified"] < before)


def delete_all(place: Place, keys: Iterable[str]) -> int:
    """Delete objects, a thousand a request on S3, and say how many; those that are gone already count too."""
    deleted = 0
    remaining = iter(keys)
    while batch := list(itertools.islice(remaining, _DELETED_AT_ONCE)):
        try:
            obstore.delete(place.store, batch)
        except (NotFoundError, FileNotFoundError):
            # On disk the first one that is gone ends the call.
            _delete_each(place, batch)
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"Cannot delete from {place.uri}: {reason(error)}.") from error
        deleted += len(batch)
    return deleted


def _listed(place: Place, after: str | None = None) -> "Iterator[ObjectMeta]":
    try:
        for page in obstore.list(place.store, offset=after):
            yield from page
    except (NotFoundError, FileNotFoundError):
        return
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"Cannot list {place.uri}: {reason(error)}.") from error


def _delete_each(place: Place, keys: Iterable[str]) -> None:
    """Delete objects one by one, whether or not they are there."""
    for key in keys:
        try:
            obstore.delete(place.store, key)
        except (NotFoundError, FileNotFoundError):
            continue
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"Cannot delete {place.uri_of(key)}: {reason(error)}.") from error


def backoff_s(deadline_s: float = RETRY_DEADLINE_S) -> Iterator[float]:
    """Waits for the tries that fit a deadline: exponential with full jitter, 0.1 s to 10 s.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ends_at = time.monotonic() + deadline_s
    ceiling_s = 0.2
    while time.monotonic() < ends_at:
        yield random.uniform(0.1, ceiling_s)
        ceiling_s = min(10.0, ceiling_s * 2)


def reason(error: BaseException) -> str:
    """What a storage library raised, as the end of a sentence: S3's own words when there are any."""
    text = _ANSI.sub("", str(error))
    if "//169.254.169.254/" in text:
        return "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
    code, message = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    if code and message:
        return f"{message[1].rstrip('.')} ({code[1]})"
    causes = [line.strip(" ↳\t") for line in text.splitlines()]
    return ": ".join(filter(None, causes))[:_REASON_CHARACTERS].rstrip(".") or type(error).__name__


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REASON_CHARACTERS = 400
_DELETED_AT_ONCE = 1000


@lru_cache(maxsize=64)
def _open_store(place: Place) -> ObjectStore:
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
        client_options={"allow_http": bool(place.s3_endpoint and place.s3_endpoint.startswith("http://"))},
        retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=RETRY_DEADLINE_S)},
    )
