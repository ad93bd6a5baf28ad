"""What obstore cannot ask of S3, asked through boto3 by exactly the key that is meant."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from store.objects.faults import patience_s
from store.objects.location import CONNECT_TIMEOUT, StorageLocation, stall_timeout

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


_MOST_TRIES = 4


def bucket_and_key(place: StorageLocation, key: str) -> tuple[str, str]:
    """The bucket and the whole key of an object below a place on S3."""
    bucket, prefix = place.bucket_and_prefix
    return bucket, f"{prefix}/{key}" if prefix else key


def s3_client(place: StorageLocation) -> "S3Client":
    """A client for what obstore cannot ask of the bucket of a place."""
    stall = stall_timeout()
    # A time-out is tried again, too, so all tries together take no longer than the patience.
    return _client(place, stall, min(_MOST_TRIES, int(timedelta(seconds=patience_s()) / (2 * stall))))


@lru_cache(maxsize=8)
def _client(place: StorageLocation, stall: timedelta, tries: int) -> "S3Client":
    import boto3
    from botocore.config import Config

    options: dict[str, Any] = {"endpoint_url": place.s3_endpoint, "region_name": place.s3_region}
    config = Config(
        # A short hiccup need not reach our own retries, which see what kind of fault it is.
        retries={"mode": "standard", "total_max_attempts": tries},
        connect_timeout=min(CONNECT_TIMEOUT, stall).total_seconds(),
        # Of each wait for bytes. A copy of a large object may take a while before S3 answers.
        read_timeout=stall.total_seconds(),
        max_pool_connections=32,
    )
    session = boto3.session.Session()
    parsers = session._session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_timestamp)
    return session.client("s3", config=config, **options)


def _timestamp(value: Any) -> datetime:
    # What botocore does with a listing's thousand times takes three quarters of the time that a page of it takes.
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
