"""What S3 tells of an object that was created."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

AT = datetime(2026, 10, 3, 12, 30, 15, tzinfo=UTC)


def created(bucket: str, key: str, size_bytes: int = 5, etag: str = "b1946ac9", at: datetime = AT) -> dict[str, Any]:
    """One record of a message."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "s3": {
            "bucket": {"name": bucket},
            "object": {"key": quote_plus(key), "size": size_bytes, "eTag": etag, "sequencer": "0055AED6"},
        },
    }
