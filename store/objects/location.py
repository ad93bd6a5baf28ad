"""A location in storage, `s3://` or `file://`, and the connection to it."""

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import LocalStore, ObjectStore, S3Store

from features.errors import InvalidSetting
from store.objects.faults import patience_s

if TYPE_CHECKING:
    from obstore.store import S3Config

# The clients' own threads hand each other work otherwise: one takes 4 % less processor time for photos of 350 px.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

CONNECT_TIMEOUT = timedelta(seconds=5)
# Of a download it limits each wait for the next bytes; of an upload the whole, which has 16 MB at most.
STALL_TIMEOUT = timedelta(seconds=30)
# A whole request with its body. A photo of 64 MiB gets through at 0.25 MB/s; a slower one is a fault.
REQUEST_TIMEOUT = timedelta(seconds=300)
# The library's own retries, for a short hiccup; there is none after a time-out.
_INNER_RETRIES = 3
_INNER_RETRY_TIMEOUT = timedelta(seconds=4)
_STRANGE_KEY = re.compile(r"^/|//|/\Z|(?:^|/)\.\.?(?:/|\Z)|[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class StorageLocation:
    """A prefix in object storage: `file:///directory` or `s3://bucket/prefix`, without a trailing slash.

    A landing also has a `name`: its first URI in its home, wherever it lies today.
    """

    uri: str
    s3_endpoint: str | None = None
    s3_region: str | None = None
    name: str | None = None

    @classmethod
    def at(cls, location: str, s3_endpoint: str | None = None, s3_region: str | None = None) -> "StorageLocation":
        """The location that a person names: an `s3://` or `file://` URI, or a path of this machine.

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
        """The directory of a local location."""
        return Path(self.uri.removeprefix("file://"))

    @property
    def bucket_and_prefix(self) -> tuple[str, str]:
        """The bucket and the prefix (possibly empty) of a location on S3."""
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        return bucket, prefix

    def child(self, name: str) -> "StorageLocation":
        return replace(self, uri=f"{self.uri}/{name}", name=None)

    def uri_of(self, key: str) -> str:
        """Where an object lies today."""
        return printable(f"{self.uri}/{key}")

    @property
    def source(self) -> str:
        """The name of a landing in plans, tables and hashes, although it has moved since."""
        return self.name or self.uri

    def source_of(self, key: str) -> str:
        """The `source` of a landing's object in the tables."""
        return printable(f"{self.source}/{key}")

    @property
    def store(self) -> ObjectStore:
        """The connection to this location. Raises FileNotFoundError for a directory that does not exist."""
        return _open_store(self, stall_timeout())

    def create(self) -> None:
        """Make the directory of a location on disk; on S3 there is nothing to make."""
        if self.is_local:
            self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def deltalake_uri(self) -> str:
        """This location for `deltalake`, which reads a file URI with a '#' or '?' in it as something else."""
        return str(self.directory) if self.is_local else self.uri

    def table_options(self) -> dict[str, str]:
        """Storage options for `deltalake`, which opens its own connection to the same location."""
        if self.is_local:
            return {}
        # deltalake has no limit for a stall alone (1.6.6 ignores `read_timeout`), so it is that of the whole request.
        whole = min(STALL_TIMEOUT, timedelta(seconds=patience_s()))
        options = {
            "conditional_put": "etag",
            "timeout": _in_ms(whole),
            "connect_timeout": _in_ms(min(CONNECT_TIMEOUT, whole)),
            "max_retries": str(_INNER_RETRIES),
            "retry_timeout": _in_ms(min(_INNER_RETRY_TIMEOUT, whole / 2)),
        }
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
    """How long a request may go without a byte; short enough for two tries within the patience."""
    return min(STALL_TIMEOUT, timedelta(seconds=patience_s() / 2))


def printable(text: str) -> str:
    """Text that any UTF-8 column can hold: a file name on disk need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_nfc(text: str) -> str:
    """Text with each accent and its letter in one character (Unicode NFC), because systems differ in that."""
    return unicodedata.normalize("NFC", text)


def is_plain_key(key: str) -> bool:
    """Whether obstore addresses exactly this key: it has no empty, '.' or '..' segment and no control character.

    With other keys obstore raises ValueError, or drops a slash at an end and so addresses another object.
    """
    return _STRANGE_KEY.search(key) is None


@lru_cache(maxsize=64)
def _open_store(location: StorageLocation, stall: timedelta) -> ObjectStore:
    if location.is_local:
        if not location.directory.is_dir():
            raise FileNotFoundError(location.uri)
        return LocalStore(location.directory)
    bucket, prefix = location.bucket_and_prefix
    config: S3Config = {"bucket": bucket, "conditional_put": "etag"}
    if location.s3_endpoint:
        config |= {"endpoint": location.s3_endpoint, "virtual_hosted_style_request": False}
    if location.s3_region:
        config["region"] = location.s3_region
    return S3Store(
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": bool(location.s3_endpoint and location.s3_endpoint.startswith("http://")),
            "connect_timeout": min(CONNECT_TIMEOUT, stall),
            "read_timeout": stall,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": _INNER_RETRIES, "retry_timeout": min(_INNER_RETRY_TIMEOUT, stall / 2)},
    )


def _in_ms(duration: timedelta) -> str:
    return f"{duration / timedelta(milliseconds=1):.0f}ms"
