"""From the stream that runs to the stream that is wanted, without two at once and without losing a photo."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from bootstrap.cloud import Cloud, CloudRefused
from bootstrap.steps import Step, Submitted, cancel, steps, submit
from features.heartbeat import ask_to_stop, is_alive, read_heartbeat, wait_until_stopped
from features.home import Home

# A batch under backlog takes some 20 s, and two may be in flight.
STOPS_WITHIN_S = 300.0
ENDS_WITHIN_S = 180.0
POLL_S = 5.0


class StreamKeepsRunning(CloudRefused):
    """The stream was asked to stop and has not; nothing was started beside it."""


def run_as(
    cloud: Cloud, cluster: str, home: Home, wanted: Step, say: Callable[[str], None]
) -> Literal["runs already", "started", "handed over"]:
    """See to it that the cluster's stream is `wanted`, and say what that took.

    The stream before finishes its batches first. Photos that land meanwhile wait for the next one. Replay changes
    nothing. Raises StreamKeepsRunning, CloudRefused, StorageUnavailable.
    """
    unfinished = [step for step in steps(cloud, cluster, "stream") if step.is_unfinished]
    if len(unfinished) == 1 and unfinished[0].step == wanted and unfinished[0].state != "CANCEL_PENDING":
        return "runs already"
    stop(cloud, cluster, home, say)
    submit(cloud, cluster, wanted)
    return "handed over" if unfinished else "started"


def stop(cloud: Cloud, cluster: str, home: Home, say: Callable[[str], None]) -> bool:
    """Let the cluster's stream finish what it has in hand and end; whether there was one.

    A step that has not come to run, or whose stream gives no sign of life, is cancelled.
    Raises StreamKeepsRunning, CloudRefused, StorageUnavailable.
    """
    unfinished = [step for step in steps(cloud, cluster, "stream") if step.is_unfinished]
    if not unfinished:
        return False
    heartbeat = read_heartbeat(home)
    if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)):
        say("Asking the stream to finish what it has in hand …")
        ask_to_stop(home, heartbeat.nonce)
        if not wait_until_stopped(home, heartbeat.nonce, STOPS_WITHIN_S):
            raise StreamKeepsRunning(
                f"The stream has not stopped within {STOPS_WITHIN_S / 60:.0f} minutes; look at `fruits logs stream`, "
                "then run this again."
            )
    else:
        for step in unfinished:
            cancel(cloud, cluster, step)
    _wait_for_the_end(cloud, cluster, unfinished)
    return True


def _wait_for_the_end(cloud: Cloud, cluster: str, before: list[Submitted]) -> None:
    ids = {step.id for step in before}
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while any(step.is_unfinished for step in steps(cloud, cluster, "stream") if step.id in ids):
        if time.monotonic() > deadline_s:
            raise StreamKeepsRunning(
                f"The step {', '.join(sorted(ids))} has not ended; cancel it in EMR's console, then run this again."
            )
        time.sleep(POLL_S)
