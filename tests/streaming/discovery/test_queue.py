"""What S3 tells a queue arrives, stays hidden while it is worked on, and is deleted once it is settled."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber

from features.errors import InvalidSetting
from store.errors import StorageUnavailable
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from streaming.discovery.in_flight_messages import Arrival, InFlightMessages
from streaming.discovery.queue import Queue
from streaming.discovery.sqs import QueueDepth, Requests
from tests.conftest import REGION
from tests.support.created import created
from tests.support.fault_proxy import Rule, set_rules, unused_rules

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

OpenQueue = Callable[..., Queue]

ODD_KEY = "a b+c%/🍎.jpg"


@pytest.fixture
def open_queue(queue_url: str, bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenQueue]:
    """Opens the queue of a landing in `bucket`, through another server if that is named."""
    monkeypatch.setattr("streaming.discovery.queue.WAIT_S", 1)
    queues: list[Queue] = []

    def open_it(server: str = s3_server) -> Queue:
        queues.append(Queue(queue_url.replace(s3_server, server), StorageLocation.at(f"s3://{bucket}/landing"), REGION))
        queues[-1].start()
        return queues[-1]

    yield open_it
    for queue in queues:
        queue.close()


def _arn(sqs: "SQSClient", queue_url: str) -> str:
    return sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _told(bucket: str, *keys: str) -> str:
    return json.dumps({"Records": [created(bucket, key) for key in keys]})


def _take(queue: Queue, count: int) -> list[Arrival]:
    taken: list[Arrival] = []

    def is_complete() -> bool:
        taken.extend(queue.take(count - len(taken)))
        return len(taken) == count

    _until(is_complete)
    return taken


def _until(condition: Callable[[], Any]) -> None:
    ends_at_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at_s
        time.sleep(0.02)


def _visible_and_hidden(sqs: "SQSClient", queue_url: str) -> tuple[int, int]:
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts: Any = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return int(counts[names[0]]), int(counts[names[1]])


def test_an_upload_that_s3_tells_the_queue_of_arrives(
    sqs: "SQSClient", s3: "S3Client", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {"QueueArn": _arn(sqs, queue_url), "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
            ]
        },
    )
    began_at = datetime.now(UTC).replace(microsecond=0)
    etag = s3.put_object(Bucket=bucket, Key=f"landing/{ODD_KEY}", Body=b"12345")["ETag"].strip('"')
    s3.delete_object(Bucket=bucket, Key=f"landing/{ODD_KEY}")
    queue = open_queue()
    (arrival,) = _take(queue, 1)
    landed = arrival.landed
    assert (landed.key, landed.size_bytes, landed.etag) == (ODD_KEY, 5, etag)
    assert began_at <= landed.arrived_at <= datetime.now(UTC)
    assert queue.unknown == 0
    queue.settled([arrival])
    _until(lambda: queue.stats().depth == QueueDepth(0, 0, 0))


def test_an_upload_that_comes_through_a_topic_arrives(
    sqs: "SQSClient", s3_server: str, queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    sns = boto3.client("sns", endpoint_url=s3_server, region_name=REGION)
    topic = sns.create_topic(Name=f"landed-{uuid.uuid4().hex[:12]}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=_arn(sqs, queue_url))
    sns.publish(TopicArn=topic, Message=_told(bucket, f"landing/{ODD_KEY}"))
    (arrival,) = _take(open_queue(), 1)
    at = datetime(2026, 10, 3, 12, 30, 15, tzinfo=UTC)
    assert (arrival.landed, arrival.sequencer) == (LandedObject(ODD_KEY, 5, "b1946ac9", at), "0055AED6")


def test_a_message_is_deleted_when_all_it_tells_of_is_settled(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, *(f"landing/{name}.jpg" for name in "abc")))
    queue = open_queue()
    first, second = _take(queue, 2), _take(queue, 1)
    assert [arrival.landed.key for arrival in first + second] == ["a.jpg", "b.jpg", "c.jpg"]
    queue.settled(first)
    queue.settled(first)
    time.sleep(0.3)
    assert (queue.held, queue.found_empty_at) == (1, None)
    assert _visible_and_hidden(sqs, queue_url) == (0, 1)
    queue.settled(second)
    _until(lambda: queue.held == 0)
    assert _visible_and_hidden(sqs, queue_url) == (0, 0)


def test_messages_of_nothing_that_is_meant_here_are_deleted_at_once(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    for keys in (["landing/_folder/a.jpg"], ["landing/a.jpg.part", "landing/"], ["landings/a.jpg"], ["a.jpg"], []):
        sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, *keys))
    queue = open_queue()
    _until(lambda: _visible_and_hidden(sqs, queue_url) == (0, 0))
    assert (queue.take(10), queue.unknown) == ([], 0)


def test_the_queue_proves_empty_only_after_all_that_came_is_settled(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    began_at = datetime.now(UTC)
    sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, "landing/a.jpg"))
    queue = open_queue()
    arrivals = _take(queue, 1)
    time.sleep(1.2)
    assert queue.found_empty_at is None
    queue.settled(arrivals)
    _until(lambda: queue.found_empty_at is not None)
    assert queue.found_empty_at is not None
    assert queue.found_empty_at > began_at


def test_unknown_messages_reach_the_dead_letter_queue_and_are_counted_once(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.discovery.queue.VISIBILITY_S", 1)
    dead = sqs.create_queue(QueueName=f"dead-{uuid.uuid4().hex[:12]}")["QueueUrl"]
    redrive = json.dumps({"deadLetterTargetArn": _arn(sqs, dead), "maxReceiveCount": 2})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": redrive})
    partly_known = json.dumps({"Records": [{}, *json.loads(_told(bucket, "landing/a.jpg"))["Records"]]})
    bodies = {partly_known, "not ours", _told("another-bucket", "landing/a.jpg")}
    for body in bodies:
        sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    queue = open_queue()
    arrivals = _take(queue, 1)
    assert [arrival.landed.key for arrival in arrivals] == ["a.jpg"]
    queue.settled(arrivals)
    _until(lambda: _visible_and_hidden(sqs, dead) == (3, 0))
    assert {one["Body"] for one in sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10)["Messages"]} == bodies
    assert (queue.unknown, queue.take(10), queue.held) == (3, [], 0)


def test_what_is_held_stays_hidden(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.discovery.queue.VISIBILITY_S", 1)
    # Nothing that came back would be received again, and so be hidden.
    monkeypatch.setattr("streaming.discovery.queue.HELD_LIMIT", 12)
    for number in range(12):
        sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, f"landing/{number}.jpg"))
    _take(open_queue(), 12)
    time.sleep(1.3)
    assert _visible_and_hidden(sqs, queue_url) == (0, 12)


def test_what_is_not_settled_at_the_close_comes_back_at_once(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    for number in range(12):
        sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, f"landing/{number}.jpg"))
    queue = open_queue()
    arrivals = _take(queue, 11)
    queue.settled(arrivals[:4])
    queue.close()
    assert _visible_and_hidden(sqs, queue_url) == (8, 0)
    again = {arrival.landed.key for arrival in _take(open_queue(), 8)}
    assert again == {f"{number}.jpg" for number in range(12)} - {arrival.landed.key for arrival in arrivals[:4]}


def test_a_message_that_comes_again_while_it_is_held_arrives_once_and_is_deleted_by_its_newest_receipt(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, "landing/a.jpg"))
    receipt = sqs.receive_message(QueueUrl=queue_url, VisibilityTimeout=0)["Messages"][0]["ReceiptHandle"]
    queue = open_queue()
    arrivals = _take(queue, 1)
    # SQS may show a message again before its time.
    sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=receipt, VisibilityTimeout=0)
    _until(lambda: _visible_and_hidden(sqs, queue_url) == (0, 1))
    time.sleep(0.1)
    assert (queue.take(10), queue.held) == ([], 1)
    queue.settled(arrivals)
    _until(lambda: _visible_and_hidden(sqs, queue_url) == (0, 0))


def test_a_lost_answer_to_a_deletion_is_asked_for_again(
    sqs: "SQSClient", queue_url: str, bucket: str, proxy: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one message held nothing but the deletion is asked for.
    monkeypatch.setattr("streaming.discovery.queue.HELD_LIMIT", 1)
    sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, "landing/a.jpg"))
    queue = open_queue(proxy)
    arrivals = _take(queue, 1)
    set_rules(proxy, Rule("POST", "^/$", answer=500, times=2))
    queue.settled(arrivals)
    _until(lambda: queue.held == 0)
    assert unused_rules(proxy) == []
    assert _visible_and_hidden(sqs, queue_url) == (0, 0)


def test_a_lost_answer_to_a_receive_brings_its_messages_later_and_proves_nothing(
    sqs: "SQSClient", queue_url: str, bucket: str, proxy: str, open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.discovery.queue.VISIBILITY_S", 2)
    sqs.send_message(QueueUrl=queue_url, MessageBody=_told(bucket, "landing/a.jpg"))
    set_rules(proxy, Rule("POST", "^/$", answer=503))
    queue = open_queue(proxy)
    (arrival,) = _take(queue, 1)
    assert arrival.landed.key == "a.jpg"
    assert queue.found_empty_at is None


def test_entries_that_failed_for_now_are_sent_again_and_refused_ones_are_not(sqs: "SQSClient", queue_url: str) -> None:
    # An answer that SQS gives and no server here does.
    def failed(number: int, code: str, is_senders: bool) -> dict[str, Any]:
        return {"Id": str(number), "Code": code, "SenderFault": is_senders}

    def sent(*numbers: int) -> dict[str, Any]:
        entries = [{"Id": str(n), "ReceiptHandle": f"receipt {n}", "VisibilityTimeout": 120} for n in numbers]
        return {"QueueUrl": queue_url, "Entries": entries}

    first = [failed(1, "InternalError", False), failed(2, "ReceiptHandleIsInvalid", True), failed(3, "Throttled", True)]
    with Stubber(sqs) as answers:
        for numbers, failures in (((1, 2, 3, 4), first), ((1, 3), [failed(3, "InternalError", False)]), ((3,), [])):
            answer = {"Successful": [], "Failed": failures}
            answers.add_response("change_message_visibility_batch", answer, sent(*numbers))
        assert Requests(sqs, queue_url).hide({n: f"receipt {n}" for n in (1, 2, 3, 4)}, 120) == {2}
        answers.assert_no_pending_responses()


def test_hundreds_of_messages_are_taken_and_deleted(
    sqs: "SQSClient", queue_url: str, bucket: str, open_queue: OpenQueue
) -> None:
    queue = open_queue()
    keys = [f"kiwi/{number}.jpg" for number in range(240)]
    taken: set[str] = set()
    # The server takes time in proportion to the square of what is in its queue.
    for start in range(0, 240, 40):
        bodies = [_told(bucket, f"landing/{key}") for key in keys[start : start + 40]]
        for ten in (bodies[first : first + 10] for first in range(0, 40, 10)):
            entries: list[Any] = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(ten)]
            sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
        while not taken.issuperset(keys[start : start + 40]):
            arrivals = _take(queue, 1) + queue.take(100)
            taken.update(arrival.landed.key for arrival in arrivals)
            queue.settled(arrivals)
    assert taken == set(keys)
    _until(lambda: queue.held == 0)


def test_a_queue_that_does_not_exist_is_one_sentence(s3_server: str, bucket: str) -> None:
    queue = Queue(f"{s3_server}/123456789012/nowhere", StorageLocation.at(f"s3://{bucket}/landing"), REGION)
    queue.start()
    with pytest.raises(
        InvalidSetting, match=r"^There is no queue http://\S+/nowhere; check --queue, and its region\.$"
    ):
        _until(lambda: queue.take(1))
    with pytest.raises(InvalidSetting, match="There is no queue"):
        queue.take(1)
    queue.close()


def test_a_refused_request_says_what_to_grant(queue_url: str, bucket: str, proxy: str, s3_server: str) -> None:
    set_rules(proxy, Rule("POST", "^/$", answer=403))
    queue = Queue(queue_url.replace(s3_server, proxy), StorageLocation.at(f"s3://{bucket}/landing"), REGION)
    with pytest.raises(StorageUnavailable, match=r"sqs:ReceiveMessage, sqs:DeleteMessage"):
        queue.stats()


@pytest.mark.parametrize(
    "queue_url",
    [
        "",
        "landed",
        "s3://bucket/landing",
        "arn:aws:sqs:eu-west-3:123456789012:landed",
        "https://sqs.eu-west-3.amazonaws.com/landed",
        "https://sqs.eu-west-3.amazonaws.com/123456789012/",
        "http://sqs.eu-west-3.amazonaws.com/123456789012/landed",
        "https://sqs.eu-west-3.amazonaws.com/123456789012/landed?x=1",
        "https://sqs.eu-west-3.amazonaws.com/123456789012/landed.fifo",
    ],
)
def test_what_is_no_queue_that_s3_can_notify_is_refused(queue_url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"standard queue|write https://sqs\.REGION"):
        Queue(queue_url, StorageLocation.at("s3://bucket/landing"))


def test_a_landing_on_disk_has_no_queue() -> None:
    with pytest.raises(InvalidSetting, match="leave out --queue"):
        Queue("https://sqs.eu-west-3.amazonaws.com/123456789012/landed", StorageLocation.at("/data/landing"))


def test_a_message_that_can_be_hidden_no_longer_is_let_go_and_arrives_anew() -> None:
    held = InFlightMessages()
    landed = LandedObject("a.jpg", 5, "b1946ac9", datetime(2026, 10, 3, tzinfo=UTC))
    held.hold("a message", "a receipt", [(landed, None)], True, until_s=100.0)
    held.hold("another message", "another receipt", [(landed, "01")], True, until_s=101.0)
    (first, _) = held.take(2)
    assert held.to_renew(before_s=101.0, most=10) == [first.message]
    held.remove([first.message])
    held.settle([first])
    assert held.to_delete(10) == []
    held.hold("a message", "a later receipt", [(landed, None)], True, until_s=200.0)
    (again,) = held.take(10)
    held.settle([again])
    assert held.receipts(held.to_delete(10)) == {again.message: "a later receipt"}
    assert not held.all_settled
