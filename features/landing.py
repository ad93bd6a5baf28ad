"""Landed objects: what lies below the landing prefix, how to fetch exactly one version of it, how to clear it away."""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, PreconditionError

from features.errors import StorageUnavailable
from features.objects import Place, printable, reason
from features.rejects import Reason, Rejected

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Cleaning = Literal["keep", "archive", "delete"]

_PAGE_FILES = 10_000
_ESCAPED_BYTE = printable("\udcff")[:4]
_UNFINISHED_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".swp", "~", "._COPYING_")


@dataclass(frozen=True, slots=True)
class Landed:
    """One version of one object below the landing prefix."""

    key: str
    size_bytes: int
    etag: str
    arrived_at: datetime


def list_landed(landing: Place) -> Iterator[Landed]:
    """Every object below the landing prefix that a person meant to drop there, in no promised order.

    Names that begin with a dot or an underscore (the file's or a folder's), end like an unfinished download, or
    stand for a folder are left out. Raises StorageUnavailable when the listing cannot be completed.
    """
    return itertools.chain.from_iterable(list_pages(landing))


def list_pages(landing: Place) -> Iterator[list[Landed]]:
    """The same, a page at a time as storage gives them: up to 1,000 objects on S3, 10,000 on disk."""
    pages = _pages_of_directory(landing.directory) if landing.is_local else _pages_of_bucket(landing)
    return ([landed for landed in page if is_meant(landed.key)] for page in pages)


def is_meant(key: str) -> bool:
    """Whether a person meant to drop a photo under this key, which is relative to the landing prefix."""
    hidden = any(segment.startswith((".", "_")) and segment not in (".", "..") for segment in key.split("/"))
    return bool(key) and not (hidden or key.endswith("/") or key.endswith(_UNFINISHED_ENDINGS))


def look_again(landing: Place, landed: Landed) -> bool:
    """Whether an object on disk still has the size and the modification time it was listed with."""
    try:
        return _etag((landing.directory / landed.key).stat()) == landed.etag
    except FileNotFoundError:
        # A name that is not Unicode cannot be found again by its key; let the fetch say so in a reject.
        return _ESCAPED_BYTE in landed.key


def fetch(landing: Place, landed: Landed) -> bytes:
    """The bytes of exactly the version that was listed.

    Raises Rejected when it can never be had: `replaced` (another version stands there), `missing`, `unreadable`
    (no permission, or a key the storage client cannot address). Raises StorageUnavailable for what may pass.
    Protocol: `If-Match` on S3; on disk the size and modification time of the open file.
    """
    return _fetch_file(landing, landed) if landing.is_local else _fetch_object(landing, landed)


def clear_away(landing: Place, archive: Place, landed: Landed, cleaning: Cleaning) -> bool:
    """Archive or delete one processed object, and say whether it was still the version that was processed.

    A version that was uploaded in between stays where it is. Replay finds nothing left to do. On S3 the copy and the
    delete are conditional on the etag; on disk the check comes right before the rename or unlink.
    """
    if cleaning == "keep":
        return False
    if landing.is_local:
        return _clear_file(landing, archive, landed, cleaning)
    return _clear_object(landing, archive, landed, cleaning)


def archived_name(landed: Landed) -> str:
    """The key below the archive: the etag goes before the ending, so that two versions never collide."""
    path, dot, ending = landed.key.rpartition(".")
    return f"{path}.{landed.etag}.{ending}" if dot and "/" not in ending else f"{landed.key}.{landed.etag}"


def _pages_of_directory(directory: Path) -> Iterator[list[Landed]]:
    files = _files_below(directory)
    while page := list(itertools.islice(files, _PAGE_FILES)):
        yield page


def _files_below(directory: Path) -> Iterator[Landed]:
    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StorageUnavailable(f"Cannot list {error.filename}: {error.strerror}.") from error

    for folder, _, names in os.walk(directory, onerror=unreadable):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            arrived_at = datetime.fromtimestamp(status.st_mtime, UTC)
            key = printable(path.relative_to(directory).as_posix())
            yield Landed(key, status.st_size, _etag(status), arrived_at)


def _etag(status: os.stat_result) -> str:
    # No inode: a home restored from a backup keeps its modification times, and must not be taken for new.
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _pages_of_bucket(landing: Place) -> Iterator[list[Landed]]:
    # Not obstore: one key with an empty or dotted segment, which anybody may upload, fails its whole listing.
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = landing.bucket_and_prefix
    below = f"{prefix}/" if prefix else ""
    try:
        for page in _s3_client(landing).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below):
            yield [
                Landed(
                    entry["Key"].removeprefix(below),
                    entry["Size"],
                    entry["ETag"].strip('"'),
                    entry["LastModified"].astimezone(UTC),
                )
                for entry in page.get("Contents", [])
            ]
    except (BotoCoreError, ClientError) as error:
        raise StorageUnavailable(f"Cannot list {landing.uri}: {reason(error)}.") from error


def _fetch_file(landing: Place, landed: Landed) -> bytes:
    try:
        with (landing.directory / landed.key).open("rb") as file:
            body = file.read(landed.size_bytes + 1)
            if _etag(os.fstat(file.fileno())) != landed.etag or len(body) != landed.size_bytes:
                raise Rejected(Reason.REPLACED, "Another version of the file stood there when it was read.")
            return body
    except FileNotFoundError:
        if _ESCAPED_BYTE in landed.key:
            raise Rejected(Reason.UNREADABLE, "The file's name is not UTF-8; rename it.") from None
        raise Rejected(Reason.MISSING, "The file was gone when it was read.") from None
    except PermissionError as error:
        raise Rejected(Reason.UNREADABLE, f"The file may not be read: {error.strerror}.") from error
    except OSError as error:
        raise StorageUnavailable(f"Cannot read {landing.uri_of(landed.key)}: {reason(error)}.") from error


def _fetch_object(landing: Place, landed: Landed) -> bytes:
    try:
        return bytes(obstore.get(landing.store, landed.key, options={"if_match": f'"{landed.etag}"'}).bytes())
    except PreconditionError:
        raise Rejected(Reason.REPLACED, "Another version of the object stood there when it was read.") from None
    except (NotFoundError, FileNotFoundError):
        raise Rejected(Reason.MISSING, "The object was gone when it was read.") from None
    except PermissionDeniedError as error:
        raise Rejected(Reason.UNREADABLE, "Storage refused access to the object.") from error
    except ValueError as error:
        detail = "The key has an empty, '.' or '..' segment or a control character; upload it under another name."
        raise Rejected(Reason.UNREADABLE, detail) from error
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"Cannot read {landing.uri_of(landed.key)}: {reason(error)}.") from error


def _clear_file(landing: Place, archive: Place, landed: Landed, cleaning: Cleaning) -> bool:
    if not look_again(landing, landed):
        return False
    path = landing.directory / landed.key
    if cleaning == "delete":
        path.unlink(missing_ok=True)
        return True
    target = archive.directory / archived_name(landed)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    return True


def _clear_object(landing: Place, archive: Place, landed: Landed, cleaning: Cleaning) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = _s3_client(landing)
    bucket, prefix = landing.bucket_and_prefix
    key = "/".join(filter(None, (prefix, landed.key)))
    etag = f'"{landed.etag}"'
    try:
        if cleaning == "archive":
            archive_bucket, archive_prefix = archive.bucket_and_prefix
            client.copy_object(
                Bucket=archive_bucket,
                Key="/".join(filter(None, (archive_prefix, archived_name(landed)))),
                CopySource={"Bucket": bucket, "Key": key},
                CopySourceIfMatch=etag,
            )
        client.delete_object(Bucket=bucket, Key=key, IfMatch=etag)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey", "404"):
            return False
        raise StorageUnavailable(f"Cannot clear away {landing.uri_of(landed.key)}: {reason(error)}.") from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"Cannot clear away {landing.uri_of(landed.key)}: {reason(error)}.") from error
    return True


@lru_cache(maxsize=8)
def _s3_client(place: Place) -> "S3Client":
    import boto3
    from botocore.config import Config

    options: dict[str, Any] = {"endpoint_url": place.s3_endpoint, "region_name": place.s3_region}
    retries = Config(retries={"mode": "standard", "max_attempts": 8}, max_pool_connections=32)
    session = boto3.session.Session()
    parsers = session._session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_timestamp)
    return session.client("s3", config=retries, **options)


def _timestamp(value: Any) -> datetime:
    # What botocore does with a listing's thousand times takes three quarters of the time that a page of it takes.
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
