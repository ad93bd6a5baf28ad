"""Requests to one SQS queue: tried again while that can help, and else refused in a sentence that says what to do."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from features.errors import FruitsError, InvalidSetting
from store.errors import StorageRefused, StorageUnavailable
from store.objects.faults import backoff_s, reason

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef

# What SQS receives, hides or deletes in one request.
MOST_IN_A_REQUEST = 10

_PASSING = re.compile(r"Throttl|RequestLimitExceeded|OverLimit|ExpiredToken|RequestExpired|Unavailable|Timeout")
_MISSING = re.compile(r"NonExistentQueue|QueueDoesNotExist|QueueDeletedRecently")
_DENIED = re.compile(r"AccessDenied|AuthFailure|InvalidClientTokenId|UnrecognizedClient|InvalidSecurity|SignatureDoes")
_ACTIONS = "sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility and sqs:GetQueueAttributes"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages SQS says a queue holds, which is approximate."""

    visible: int
    in_flight: int
    delayed: int


class Requests:
    """What this program asks of a queue.

    Each request is tried again for two minutes and not after `gives_up_at_s`, a time of the monotonic clock.
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
                if _status(error) >= 500:
                    self.answer_lost_at_s = time.monotonic()
                raise

        return self._persist(poll)

    def delete(self, receipts: Mapping[int, str]) -> None:
        """Delete at most 10 messages. A receipt that SQS no longer takes is ignored: its message comes back."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in receipts.items()]
        self._send_batch(self._client.delete_message_batch, entries)

    def hide(self, receipts: Mapping[int, str], visibility_s: int) -> set[int]:
        """Hide at most 10 messages from now on for `visibility_s`; returns those that SQS does not hide any longer.

        That is after 12 h in all, or when a message was deleted or has come back.
        """
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": visibility_s}
            for number, receipt in receipts.items()
        ]
        return self._send_batch(self._client.change_message_visibility_batch, entries)

    def depth(self) -> QueueDepth:
        """How many messages there are, as far as SQS knows."""
        attributes = self._attributes()
        return QueueDepth(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        )

    def dead_letter_queue(self) -> str | None:
        """The URL of the queue that takes what was received too often and never settled; None when there is none."""
        policy = self._attributes().get("RedrivePolicy")
        if policy is None:
            return None
        *_, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
        return self._persist(
            lambda: self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        )

    def _attributes(self) -> dict[Any, str]:
        request = partial(self._client.get_queue_attributes, QueueUrl=self._url, AttributeNames=["All"])
        return dict(self._persist(request).get("Attributes", {}))

    def _send_batch(self, send: Callable[..., Any], entries: list[dict[str, Any]]) -> set[int]:
        unsent = entries
        refused: set[int] = set()

        def attempt() -> None:
            nonlocal unsent
            failed = {entry["Id"]: entry for entry in send(QueueUrl=self._url, Entries=unsent).get("Failed", [])}
            again = {id for id, entry in failed.items() if not entry["SenderFault"] or _PASSING.search(entry["Code"])}
            refused.update(int(id) for id in failed.keys() - again)
            unsent = [entry for entry in unsent if entry["Id"] in again]
            if unsent:
                raise _PartlyDone(f"{failed[unsent[0]['Id']]['Code']} for {len(unsent)} messages")

        if entries:
            self._persist(attempt)
        return refused

    def _persist(self, request: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        for wait_s in backoff_s():
            try:
                return request()
            except (BotoCoreError, ClientError, _PartlyDone) as error:
                failure = error
            if not _may_pass(failure) or time.monotonic() + wait_s > self.gives_up_at_s:
                break
            time.sleep(wait_s)
        raise _explained(failure, self._url) from failure


class _PartlyDone(Exception):
    """Some entries of a batch have to be sent again."""


def _may_pass(error: Exception) -> bool:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _status(error) >= 500 or _status(error) == 429 or bool(_PASSING.search(_code(error)))
    # A role's credentials come over HTTP, too.
    passing = (exceptions.HTTPClientError, exceptions.CredentialRetrievalError, exceptions.MetadataRetrievalError)
    return isinstance(error, (_PartlyDone, *passing))


def _status(error: Exception) -> int:
    """The HTTP status of an answer; of an answer that did not come, a server's fault."""
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _explained(error: Exception, url: str) -> FruitsError:
    from botocore.exceptions import NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return StorageRefused(
            f"No AWS credentials were found for the queue {url}; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role."
        )
    if _MISSING.search(_code(error)):
        return InvalidSetting(f"There is no queue {url}; check --queue, and its region.")
    if _DENIED.search(_code(error)) or _status(error) == 403:
        return StorageRefused(f"The queue {url} refused access ({_code(error)}); grant {_ACTIONS}.")
    return StorageUnavailable(f"The queue {url} cannot be used: {reason(error)}.")
