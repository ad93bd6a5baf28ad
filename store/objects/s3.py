"""What obstore cannot ask of S3, asked through boto3 by exactly the key that is meant."""

from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from store.aws import make_client
from store.objects.faults import patience_s, retry_storage
from store.objects.location import CONNECT_TIMEOUT, StorageLocation, stall_timeout

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_MOST_TRIES = 4


def bucket_and_key(place: StorageLocation, key: str) -> tuple[str, str]:
    """The bucket and the whole key of an object below a place on S3; with an empty key, what keys there begin with."""
    bucket, prefix = place.bucket_and_prefix
    return bucket, f"{prefix}/{key}" if prefix else key


def s3_client(place: StorageLocation) -> "S3Client":
    """A client for what obstore cannot ask of the bucket of a place."""
    stall = stall_timeout()
    # A time-out is tried again, too, so all tries together take no longer than the patience.
    return _client(place, stall, min(_MOST_TRIES, int(timedelta(seconds=patience_s()) / (2 * stall))))


def list_in_pages(place: StorageLocation, what: str, request: str, markers: dict[str, str]) -> Iterator[Any]:
    """Each answer to a listing request below a place; `what` ends "Cannot list ...". Raises StorageUnavailable.

    `markers` maps what a page gives to what the next request takes. boto3's paginator would begin anew after a fault.
    """
    bucket, below = bucket_and_key(place, "")
    list_page = partial(getattr(s3_client(place), request), Bucket=bucket, Prefix=below)
    after: dict[str, str] = {}
    while True:
        page = retry_storage(f"list {what}", partial(list_page, **after))
        yield page
        if not page.get("IsTruncated"):
            return
        after = {taken: page[given] for given, taken in markers.items() if given in page}


@lru_cache(maxsize=8)
def _client(place: StorageLocation, stall: timedelta, tries: int) -> "S3Client":
    client: S3Client = make_client(
        "s3",
        place.s3_region,
        place.s3_endpoint,
        # A short hiccup need not reach our own retries, which see what kind of fault it is.
        attempts=tries,
        connect_timeout_s=min(CONNECT_TIMEOUT, stall).total_seconds(),
        # Of each wait for bytes. A copy of a large object may take a while before S3 answers.
        read_timeout_s=stall.total_seconds(),
        connections=32,
    )
    return client
