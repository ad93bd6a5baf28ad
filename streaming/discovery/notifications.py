"""What a message of S3 tells of: the objects that were created."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

_KNOWN_EVENT = re.compile(
    r"(s3:)?(?P<family>ObjectCreated|ObjectRemoved|ObjectRestore|ObjectTagging|ObjectAcl|LifecycleExpiration|LifecycleTransition"
    r"|IntelligentTiering|Replication|ReducedRedundancyLostObject|TestEvent)(:|$)"
)
_ETAG = re.compile(r"[!#-~]+")
# Far from what times can be counted in.
_YEARS = range(1970, 9000)
_MOST_WRAPPINGS = 3
_MOST_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Created:
    bucket: str
    # The whole key in the bucket, decoded.
    key: str
    size_bytes: int
    etag: str
    at: datetime
    sequencer: str | None


class UnknownShape(Exception):
    """A message nobody here understands, or not all of it; `created` is what it tells of as far as it is understood."""

    def __init__(self, why: str, created: tuple[Created, ...] = ()) -> None:
        super().__init__(why)
        self.created = created


def created_objects(body: str, wrappings_left: int = _MOST_WRAPPINGS) -> tuple[Created, ...]:
    """The objects whose creation a message tells of; empty when it tells of something else.

    Understands S3's own notifications, events of EventBridge, and either of them wrapped by SNS. Times are UTC.
    Raises UnknownShape for anything else. One unknown record makes the message unknown.
    Source: "Event message structure" and "EventBridge event message structure", Amazon S3 User Guide.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise UnknownShape("the message is not JSON") from None
    match message:
        case {"Type": "Notification", "Message": str(inner)}:
            if not wrappings_left:
                raise UnknownShape(f"the message is wrapped more than {_MOST_WRAPPINGS} times")
            return created_objects(inner, wrappings_left - 1)
        case {"Records": [*records]}:
            return _each(records, _of_record)
        case {"source": "aws.s3", "detail-type": str()}:
            return _each([message], _of_event)
        case {"Service": "Amazon S3", "Event": "s3:TestEvent"}:
            return ()
    raise UnknownShape("the message is neither a notification of S3 nor an event of EventBridge")


def is_later(sequencer: str, than: str) -> bool:
    """Whether the first of two events of a key is later: pad with zeros (S3 User Guide, "Event message structure")."""
    length = max(len(sequencer), len(than))
    return sequencer.lower().ljust(length, "0") > than.lower().ljust(length, "0")


def _each(records: list[Any], read: Callable[[Any], Created | None]) -> tuple[Created, ...]:
    created: list[Created] = []
    unknown: UnknownShape | None = None
    for record in records:
        try:
            one = read(record)
        except UnknownShape as error:
            unknown = error
            continue
        if one is not None:
            created.append(one)
    if unknown is not None:
        raise UnknownShape(str(unknown), tuple(created))
    return tuple(created)


def _of_record(record: Any) -> Created | None:
    match record:
        case {"eventSource": "aws:s3", "eventVersion": str(version), "eventName": str(name)}:
            if not version.startswith("2."):
                raise UnknownShape("a record has a version other than 2")
            event = _KNOWN_EVENT.match(name)
            if event is None:
                raise UnknownShape("a record tells of an unknown event")
            return _of_creation(record) if event["family"] == "ObjectCreated" else None
    raise UnknownShape("a record is not of S3")


def _of_creation(record: Any) -> Created:
    match record:
        case {
            "eventTime": str(at),
            "s3": {
                "bucket": {"name": str(bucket)},
                "object": {"key": str(key), "size": int(size_bytes), "eTag": str(etag), **rest},
            },
        }:
            try:
                return _created(bucket, unquote_plus(key, errors="strict"), size_bytes, etag, at, rest)
            except UnicodeDecodeError:
                raise UnknownShape("a record has a key that is not UTF-8") from None
    raise UnknownShape("a record lacks what a creation needs")


def _of_event(event: Any) -> Created | None:
    match event:
        case {"detail-type": str(kind)} if kind != "Object Created":
            return None
        case {
            "time": str(at),
            "detail": {
                "bucket": {"name": str(bucket)},
                "object": {"key": str(key), "size": int(size_bytes), "etag": str(etag), **rest},
            },
        }:
            return _created(bucket, key, size_bytes, etag, at, rest)
    raise UnknownShape("an event lacks what a creation needs")


def _created(bucket: str, key: str, size_bytes: int, etag: str, at: str, rest: dict[object, object]) -> Created:
    sequencer = rest.get("sequencer")
    if not isinstance(sequencer, str | None):
        raise UnknownShape("a sequencer is not text")
    faults = {
        # To Python, and to nobody else, `true` is a number.
        "a size is not a number of bytes": isinstance(size_bytes, bool) or not 0 <= size_bytes <= _MOST_BYTES,
        "a bucket or key is empty": not (bucket and key),
        "an etag is none": not _ETAG.fullmatch(etag.strip('"')),
    }
    for why, is_so in faults.items():
        if is_so:
            raise UnknownShape(why)
    try:
        time = datetime.fromisoformat(at)
        (bucket + key + etag).encode()
    except ValueError:
        raise UnknownShape("a time is not ISO 8601, or a text is not Unicode") from None
    if time.tzinfo is None:
        raise UnknownShape("a time has no zone")
    if time.year not in _YEARS:
        raise UnknownShape("a time is out of range")
    return Created(bucket, key, size_bytes, etag.strip('"'), time.astimezone(UTC), sequencer)
