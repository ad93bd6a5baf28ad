"""A message tells of the objects that were created, whichever way it came."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.discovery.notifications import Created, UnknownShape, created_objects, is_later

ODD_KEY = "landing/a b+c%/🍎.jpg"
AT = datetime(2026, 10, 3, 12, 30, 15, 250_000, tzinfo=UTC)
APPLE = Created("bucket", ODD_KEY, 5, "b1946ac9", AT, "0055AED6DCD90281E5")


def _record(key: str = ODD_KEY, event: str = "ObjectCreated:Put", **changed: Any) -> dict[str, Any]:
    described = {"key": quote_plus(key), "size": 5, "eTag": "b1946ac9", "sequencer": "0055AED6DCD90281E5"}
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-3",
        "eventTime": "2026-10-03T12:30:15.250Z",
        "eventName": event,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "bucket"}, "object": described | changed.pop("object", {})},
    }
    return record | changed


def _event(kind: str = "Object Created") -> dict[str, Any]:
    described = {"key": ODD_KEY, "size": 5, "etag": "b1946ac9", "sequencer": "0055AED6DCD90281E5"}
    return {
        "version": "0",
        "detail-type": kind,
        "source": "aws.s3",
        "time": "2026-10-03T12:30:15.250Z",
        "detail": {"version": "0", "bucket": {"name": "bucket"}, "object": described, "reason": "PutObject"},
    }


def _wrapped(message: str, times: int = 1) -> str:
    for _ in range(times):
        message = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:::landed", "Message": message})
    return message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(json.dumps({"Records": [_record()]}), id="S3"),
        pytest.param(json.dumps({"Records": [_record(event="s3:ObjectCreated:Copy")]}), id="S3 with its prefix"),
        pytest.param(json.dumps({"Records": [_record(eventVersion="2.5")]}), id="a later version of S3"),
        pytest.param(json.dumps({"Records": [_record(object={"eTag": '"b1946ac9"'})]}), id="a quoted etag"),
        pytest.param(json.dumps({"Records": [_record(eventTime="2026-10-03T14:30:15.25+02:00")]}), id="another zone"),
        pytest.param(json.dumps(_event()), id="EventBridge"),
        pytest.param(_wrapped(json.dumps({"Records": [_record()]})), id="S3 through SNS"),
        pytest.param(_wrapped(json.dumps(_event()), times=3), id="EventBridge through three topics"),
    ],
)
def test_every_form_tells_of_the_same_object(message: str) -> None:
    assert created_objects(message) == (APPLE,)


def test_the_objects_of_all_records_are_found_in_their_order() -> None:
    keys = ["b.jpg", "a.jpg", "c/d.jpg"]
    records = [_record(key, object={"sequencer": None}) for key in keys]
    found = created_objects(json.dumps({"Records": [records[0], _record(event="ObjectRemoved:Delete"), *records[1:]]}))
    assert [(one.key, one.sequencer) for one in found] == [(key, None) for key in keys]


@pytest.mark.parametrize(
    "message",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-10-03T12:30:15.250Z", "Bucket": "bucket"},
        {"Records": []},
        {"Records": [_record(event="ObjectRemoved:DeleteMarkerCreated", s3={"object": {"key": "a.jpg"}})]},
        {"Records": [_record(event="s3:ObjectRestore:Completed"), _record(event="ObjectTagging:Put")]},
        {"Records": [_record(event="ObjectAcl:Put"), _record(event="LifecycleExpiration:Delete")]},
        {"Records": [_record(event="LifecycleTransition"), _record(event="IntelligentTiering")]},
        {"Records": [_record(event="Replication:OperationNotTracked"), _record(event="ReducedRedundancyLostObject")]},
        _event("Object Deleted"),
        _event("Object Tags Added"),
    ],
)
def test_a_message_of_something_else_tells_of_no_object(message: dict[str, Any]) -> None:
    assert created_objects(json.dumps(message)) == ()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "not JSON",
        "[" * 100_000,
        "[]",
        "{}",
        '{"Records": 1}',
        '{"Records": [1]}',
        '{"Type": "SubscriptionConfirmation", "Message": "…", "Token": "…"}',
        _wrapped(json.dumps({"Records": [_record()]}), times=4),
        json.dumps(_event() | {"time": 1_790_000_000.5}),
        json.dumps(_event() | {"detail": {"bucket": {"name": "bucket"}, "object": {"key": "a.jpg", "size": 5}}}),
        json.dumps(_event() | {"source": "our.app"}),
    ],
)
def test_other_messages_are_unknown(message: str) -> None:
    with pytest.raises(UnknownShape):
        created_objects(message)


@pytest.mark.parametrize(
    "record",
    [
        _record(eventSource="aws:kinesis"),
        _record(eventVersion="3.0"),
        _record(eventVersion="20.1"),
        _record(event="ObjectPainted:Red"),
        _record(event="ObjectCreatedTwice:Put"),
        _record(eventTime="yesterday"),
        _record(eventTime="2026-10-03T12:30:15"),
        _record(eventTime="0001-01-01T00:00:00+23:59"),
        _record(eventTime=None),
        _record(s3={"bucket": {"name": "bucket"}, "object": {"key": "a.jpg"}}),
        _record(object={"key": "a%FF.jpg"}),
        _record(object={"key": "a\ud83c.jpg"}),
        _record(object={"key": ""}),
        _record(object={"size": "5"}),
        _record(object={"size": True}),
        _record(object={"size": -1}),
        _record(object={"size": 2**63}),
        _record(object={"eTag": None}),
        _record(object={"sequencer": 7}),
    ],
)
def test_one_unknown_record_makes_a_message_unknown_and_hides_no_known_one(record: dict[str, Any]) -> None:
    with pytest.raises(UnknownShape) as caught:
        created_objects(_wrapped(json.dumps({"Records": [record, _record()]})))
    assert caught.value.created == (APPLE,)
    assert ".jpg" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_key_comes_through_both_forms_as_it_is(key: str) -> None:
    event = _event()
    event["detail"]["object"]["key"] = key
    messages = [{"Records": [_record(key)]}, event]
    assert [one.key for message in messages for one in created_objects(json.dumps(message))] == [key, key]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_sequencers_are_ordered_as_fractions_whatever_their_length_and_case(one: int, other: int) -> None:
    shortened = f"{one:016x}".rstrip("0")
    assert is_later(shortened, f"{other:016X}") == (one > other)
    assert is_later(f"{other:016X}", shortened) == (other > one)


def test_times_are_in_utc() -> None:
    (found,) = created_objects(json.dumps({"Records": [_record(eventTime="2026-10-03T14:30:15.25+02:00")]}))
    assert found.at.tzinfo is UTC
    assert found.at == datetime(2026, 10, 3, 14, 30, 15, 250_000, tzinfo=timezone(timedelta(hours=2)))
