"""What SQS says of the queue with S3's notifications, and of its dead-letter queue."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.errors import FruitsError
from store.state.heartbeat import Messages
from streaming.discovery.sqs import Requests, sqs_client

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

# A person does not wait as long as a stream does.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class QueueStatus:
    """How many messages a queue has; SQS's numbers are approximate.

    `dead_letters` is None when the queue has no dead-letter queue, `held` and `unknown` when no stream runs. Where SQS
    did not answer, `refused` says why.
    """

    url: str
    visible: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead_letters: int | None = None
    held: int | None = None
    unknown: int | None = None
    refused: str | None = None


def read_queue_status(url: str, region: str | None, messages: Messages | None) -> QueueStatus:
    """The status of a queue, with what the running stream said of its `messages`; no answer of SQS is no error."""
    held, unknown = (messages.held, messages.unknown) if messages else (None, None)
    try:
        client = sqs_client(url, region)
        requests = _requests(client, url)
        depth, dead_letter_url = requests.depth(), requests.dead_letter_queue()
        dead_letters = _requests(client, dead_letter_url).depth().visible if dead_letter_url is not None else None
    except FruitsError as error:
        return QueueStatus(url, held=held, unknown=unknown, refused=str(error))
    return QueueStatus(url, depth.visible, depth.in_flight, depth.delayed, dead_letters, held, unknown)


def _requests(client: "SQSClient", url: str) -> Requests:
    requests = Requests(client, url)
    requests.gives_up_at_s = time.monotonic() + PATIENCE_S
    return requests
