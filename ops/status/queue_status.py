"""What SQS says of the queue that S3 tells of new objects, and of its dead letters."""

import time
from dataclasses import dataclass

from features.errors import FruitsError
from store.state.heartbeat import Messages
from streaming.discovery.sqs import Requests, sqs_client

# Who looks does not wait as long as a stream would.
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


def look_at_queue(url: str, region: str | None, messages: Messages | None) -> QueueStatus:
    """How a queue stands now; `messages` are what the running stream said of it. Never fails for SQS's sake."""
    held, unknown = (messages.held, messages.unknown) if messages else (None, None)
    try:
        client = sqs_client(url, region)
        requests = Requests(client, url)
        requests.gives_up_at_s = time.monotonic() + PATIENCE_S
        depth = requests.depth()
        dead_letter_url = requests.dead_letter_queue()
        dead_letters = None
        if dead_letter_url is not None:
            theirs = Requests(client, dead_letter_url)
            theirs.gives_up_at_s = time.monotonic() + PATIENCE_S
            dead_letters = theirs.depth().visible
    except FruitsError as error:
        return QueueStatus(url, held=held, unknown=unknown, refused=str(error))
    return QueueStatus(url, depth.visible, depth.in_flight, depth.delayed, dead_letters, held, unknown)
