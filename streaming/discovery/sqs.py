"""Requests to one SQS queue, retried while that can help; else the error says what to do."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from features.errors import FruitsError, InvalidSetting
from store.aws import make_client
from store.errors import StorageRefused, StorageUnavailable
from store.objects.faults import Fault, backoff_s, fault_of, fault_of_code, http_status, reason

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.literals import QueueAttributeNameType
    from types_boto3_sqs.type_defs import MessageTypeDef

# What SQS receives, hides or deletes in one request.
MOST_IN_A_REQUEST = 10

# The longest SQS waits for a message; an empty receive is a request that is paid for.
WAIT_S = 20

_QUEUE_URL = re.compile(
    r"(?P<endpoint>(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+)(:[0-9]+)?)/[0-9]+/[A-Za-z0-9_-]{1,80}(?P<fifo>\.fifo)?"
)
# Other hosts, private endpoints among them, are asked as they are named.
_AMAZONS_OWN = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")
_ACTIONS = "sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility and sqs:GetQueueAttributes"

T = TypeVar("T")


def sqs_client(url: str, region: str | None, connections: int = 10) -> "SQSClient":
    """A client for one queue. Raises InvalidSetting for a URL that is no standard queue's."""
    parts = _QUEUE_URL.fullmatch(url)
    if parts is None or (parts["scheme"] == "http" and re.search(r"\.amazonaws\.com(\.cn)?$", parts["host"])):
        raise InvalidSetting(f"{url!r} is no queue's URL; write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME.")
    if parts["fifo"]:
        raise InvalidSetting(f"S3 cannot notify the FIFO queue {url}; use a standard queue.")
    amazons_own = _AMAZONS_OWN.fullmatch(parts["host"])
    region, endpoint = (amazons_own[1], None) if amazons_own else (region, parts["endpoint"])
    # `Requests` retries: it makes a sentence of a refusal, and ends at the end of the program.
    client: SQSClient = make_client(
        "sqs", region, endpoint, attempts=1, read_timeout_s=WAIT_S + 10, connections=connections
    )
    return client


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages SQS says a queue holds, which is approximate."""

    visible: int
    in_flight: int
    delayed: int


class Requests:
    """The requests to one queue, each retried for two minutes, and not after `gives_up_at_s` (monotonic clock).

    Raises InvalidSetting when there is no such queue, StorageRefused, and StorageUnavailable when it does not answer.
    """

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url
        self.gives_up_at_s = math.inf
        # When the answer to a receive was last lost; messages may have been in it.
        self.answer_lost_at_s = -math.inf

    def receive(self, wait_s: int, visibility_s: int) -> list["MessageTypeDef"]:
        """At most 10 messages, which nobody else receives for `visibility_s`; none when none comes for `wait_s`."""

        def poll() -> list["MessageTypeDef"]:
            try:
                return self._client.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=MOST_IN_A_REQUEST,
                    WaitTimeSeconds=wait_s,
                    VisibilityTimeout=visibility_s,
                ).get("Messages", [])
            except Exception as error:
                if (http_status(error) or 500) >= 500:
                    self.answer_lost_at_s = time.monotonic()
                raise

        return self._retry(poll)

    def delete(self, receipts: Mapping[int, str]) -> None:
        """Delete at most 10 messages. A message whose receipt is no longer valid stays, and comes back."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in receipts.items()]
        self._send_batch(self._client.delete_message_batch, entries)

    def hide(self, receipts: Mapping[int, str], visibility_s: int) -> set[int]:
        """Hide at most 10 messages; returns those that SQS hides no longer: after 12 h, or deleted, or come back."""
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": visibility_s}
            for number, receipt in receipts.items()
        ]
        return self._send_batch(self._client.change_message_visibility_batch, entries)

    def depth(self) -> QueueDepth:
        counts = self._attributes(
            "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"
        )
        return QueueDepth(*map(int, counts))

    def dead_letter_queue(self) -> str | None:
        """The URL of the queue that takes what was received too often and never settled; None when there is none."""
        (policy,) = self._attributes("RedrivePolicy")
        if policy is None:
            return None
        *_, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
        return self._retry(
            lambda: self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        )

    def _attributes(self, *names: "QueueAttributeNameType") -> list[Any]:
        found = self._retry(lambda: self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names))
        return [found.get("Attributes", {}).get(name) for name in names]

    def _send_batch(self, request: Callable[..., Any], entries: list[dict[str, Any]]) -> set[int]:
        """Send a batch until no entry may succeed any more; returns those that SQS refused."""
        unsent = entries
        refused: set[int] = set()

        def attempt() -> None:
            nonlocal unsent
            answer = request(QueueUrl=self._url, Entries=unsent)
            failed = {entry["Id"]: entry for entry in answer.get("Failed", [])}
            again = {
                id
                for id, entry in failed.items()
                if not entry["SenderFault"] or fault_of_code(entry["Code"]) is Fault.TRANSIENT
            }
            refused.update(int(id) for id in failed.keys() - again)
            unsent = [entry for entry in unsent if entry["Id"] in again]
            if unsent:
                raise _PartlyDone(f"{failed[unsent[0]['Id']]['Code']} for {len(unsent)} messages")

        if entries:
            self._retry(attempt)
        return refused

    def _retry(self, request: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        for wait_s in backoff_s():
            try:
                return request()
            except (BotoCoreError, ClientError, _PartlyDone) as error:
                failure = error
            if fault_of(failure) is not Fault.TRANSIENT or time.monotonic() + wait_s > self.gives_up_at_s:
                break
            time.sleep(wait_s)
        raise _queue_error(failure, self._url) from failure


class _PartlyDone(Exception):
    """Some entries of a batch have to be sent again."""


def _queue_error(error: Exception, url: str) -> FruitsError:
    fault = fault_of(error)
    if fault is Fault.MISSING:
        return InvalidSetting(f"There is no queue {url}; check --queue, and its region.")
    code = getattr(error, "response", {}).get("Error", {}).get("Code")
    if code and (fault in (Fault.REFUSED, Fault.REFUSED_OBJECT) or http_status(error) == 403):
        return StorageRefused(f"The queue {url} refused access ({code}); grant {_ACTIONS}.")
    kind = StorageRefused if fault is Fault.REFUSED else StorageUnavailable
    return kind(f"The queue {url} cannot be used: {reason(error)}.")
