"""Discovery without listing: S3's event notifications from an SQS queue."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from features.errors import InvalidSetting
from store.objects.landing import LandedObject, is_photo_key
from store.objects.location import StorageLocation
from streaming.discovery.in_flight_messages import Arrival, InFlightMessages
from streaming.discovery.notifications import UnknownShape, created_objects
from streaming.discovery.sqs import MOST_IN_A_REQUEST, WAIT_S, QueueDepth, Requests, sqs_client

if TYPE_CHECKING:
    from types_boto3_sqs.type_defs import MessageTypeDef

VISIBILITY_S = 120
# SQS lets a queue have 120,000 messages in flight.
HELD_LIMIT = 20_000
# At 50 ms a call, 8 threads receive or delete 10,000 messages in 6 s.
MOST_RECEIVING = 8
THREADS = 16
# How long the end of the program waits for a receive that is under way, and for what is to be deleted.
CLOSING_S = 5.0

_REMEMBERED_UNKNOWN = 100_000


@dataclass(frozen=True)
class QueueStats:
    """About how many messages the queue has, how many of them this stream holds, how many were of unknown shape."""

    depth: QueueDepth
    held: int
    unknown: int


class Queue:
    """Receives messages, holds each until its objects are settled, and then deletes it.

    A message that is not settled comes again, to this process or to the next: an object may arrive more than once.
    `wait_s` is how long a receive waits for messages. Raises InvalidSetting for a URL that is no standard queue's, or
    a landing that is not on S3.
    """

    def __init__(
        self, url: str, landing: StorageLocation, region: str | None = None, wait_s: int | None = None
    ) -> None:
        if landing.is_local:
            raise InvalidSetting(
                f"A queue tells of objects on S3, and {landing.uri} is a directory; leave out --queue."
            )
        self._wait_s = WAIT_S if wait_s is None else wait_s
        self._bucket, prefix = landing.bucket_and_prefix
        self._below = f"{prefix}/" if prefix else ""
        self._requests = Requests(sqs_client(url, region, THREADS), url)
        self._changed = threading.Condition()
        self._held = InFlightMessages()
        self._unknown_ids: dict[str, None] = {}
        # Messages of unknown shape since the start. They are left to the queue's redrive policy.
        self.unknown = 0
        # How many threads may receive now, and how many do.
        self._may_receive, self._receiving = 1, 0
        # The begin of the newest receive that returned nothing while no other was under way and all was settled: what
        # was sent before then, and no other consumer holds, is settled.
        self.found_empty_at: datetime | None = None
        self._is_closing = False
        self._failure: Exception | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to receive, in threads that do not keep the process alive."""
        self._threads = [threading.Thread(target=self._run, name="queue", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def take(self, most: int) -> list[Arrival]:
        """What was received and not taken, oldest first. Raises InvalidSetting, StorageRefused, StorageUnavailable."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return self._held.take(most)

    def settled(self, arrivals: Iterable[Arrival]) -> None:
        """Each of these is in a durable plan, or needs none; a message whose arrivals all are is deleted.

        It happens in the background. Replay changes nothing.
        """
        with self._changed:
            self._held.settle(arrivals)
            self._changed.notify_all()

    @property
    def held(self) -> int:
        """Messages received and not yet deleted."""
        return len(self._held)

    def stats(self) -> QueueStats:
        """The queue's figures now. Raises what `take` raises."""
        return QueueStats(self._requests.depth(), self.held, self.unknown)

    def close(self) -> None:
        """Stop receiving, delete what is settled, and give the rest back at once. Takes 5 s at most.

        What cannot be given back in time comes back when its visibility ends.
        """
        with self._changed:
            self._is_closing = True
            self._requests.gives_up_at_s = time.monotonic() + CLOSING_S
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, self._requests.gives_up_at_s - time.monotonic()))

    def _run(self) -> None:
        try:
            while (request := self._next_request()) is not None:
                request()
        except Exception as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _next_request(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                if settled := self._held.to_delete(MOST_IN_A_REQUEST):
                    return partial(self._delete, settled)
                now_s = time.monotonic()
                before_s = math.inf if self._is_closing else now_s + VISIBILITY_S / 2
                if due := self._held.to_renew(before_s, MOST_IN_A_REQUEST):
                    return partial(self._give_back if self._is_closing else self._renew, due)
                if self._is_closing:
                    return None
                has_room = self._receiving < self._may_receive and len(self._held) < HELD_LIMIT
                if has_room and self._failure is None:
                    self._receiving += 1
                    # One thread polls a quiet queue; the others are not to be waited for when it has become quiet.
                    return partial(self._receive, self._wait_s if self._receiving == 1 else 1)
                next_s = self._held.next_comes_back_s
                self._changed.wait(None if next_s is None else max(0.0, next_s - before_s))

    def _receive(self, wait_s: int) -> None:
        began_at, began_s = datetime.now(UTC), time.monotonic()
        messages = self._requests.receive(wait_s, VISIBILITY_S)
        parsed = [(message, *self._parsed(message["Body"])) for message in messages]
        with self._changed:
            for message, objects, is_understood in parsed:
                self._hold(message, objects, is_understood)
            self._receiving -= 1
            if len(messages) == MOST_IN_A_REQUEST:
                self._may_receive = min(2 * self._may_receive, MOST_RECEIVING)
            elif not messages:
                self._may_receive = 1
                # While messages may be hidden that nobody got, an empty answer proves nothing.
                none_lost = self._requests.answer_lost_at_s + VISIBILITY_S < began_s
                if none_lost and self._receiving == 0 and self._held.all_settled:
                    self.found_empty_at = began_at
            self._changed.notify_all()

    def _parsed(self, body: str) -> tuple[list[tuple[LandedObject, str | None]], bool]:
        try:
            created, is_understood = created_objects(body), True
        except UnknownShape as unknown:
            created, is_understood = unknown.created, False
        ours = []
        for one in created:
            key = one.key.removeprefix(self._below)
            if one.bucket != self._bucket:
                # Another consumer's, who is to find it in the dead-letter queue.
                is_understood = False
            elif one.key.startswith(self._below) and key and is_photo_key(key):
                ours.append((LandedObject(key, one.size_bytes, one.etag, one.at), one.sequencer))
        return ours, is_understood

    def _hold(
        self, message: "MessageTypeDef", objects: list[tuple[LandedObject, str | None]], is_understood: bool
    ) -> None:
        id = message["MessageId"]
        if id in self._unknown_ids:
            return
        if not is_understood:
            self.unknown += 1
            self._unknown_ids[id] = None
            if len(self._unknown_ids) > _REMEMBERED_UNKNOWN:
                del self._unknown_ids[next(iter(self._unknown_ids))]
        until_s = time.monotonic() + VISIBILITY_S
        self._held.hold(id, message["ReceiptHandle"], objects, is_understood, until_s)

    def _delete(self, numbers: list[int]) -> None:
        self._requests.delete(self._receipts(numbers))
        with self._changed:
            self._held.remove(numbers)
            self._changed.notify_all()

    def _renew(self, numbers: list[int]) -> None:
        refused = self._requests.hide(self._receipts(numbers), VISIBILITY_S)
        with self._changed:
            # SQS hides no message for more than 12 h in all; such a one comes back and is a duplicate.
            self._held.remove(refused)
            self._held.renewed(numbers, time.monotonic() + VISIBILITY_S)
            self._changed.notify_all()

    def _give_back(self, numbers: list[int]) -> None:
        self._requests.hide(self._receipts(numbers), 0)
        with self._changed:
            self._held.remove(numbers)

    def _receipts(self, numbers: list[int]) -> dict[int, str]:
        with self._changed:
            return self._held.receipts(numbers)
