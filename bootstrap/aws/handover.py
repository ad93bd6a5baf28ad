"""From the stream that runs to the stream that is wanted, without two at once and without losing a photo."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from bootstrap.aws.cloud import Cloud, CloudRefused
from bootstrap.aws.steps import Step, all_steps, cancel, step_name, steps, submit
from store.home import Home
from store.state.heartbeat import is_alive, read_heartbeat, request_stop, wait_until_stopped

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
    """Let the home's stream finish what it has in hand and end; whether the cluster had one.

    One that does not, or gives no sign of life, is ended with its step: a stream that is killed loses nothing.
    Raises StreamKeepsRunning when it runs elsewhere and does not stop, CloudRefused, StorageUnavailable.
    """
    unfinished = [step for step in steps(cloud, cluster, "stream") if step.is_unfinished]
    heartbeat = read_heartbeat(home)
    stopped = False
    if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)):
        say("Asking the stream to finish what it has in hand …")
        request_stop(home, heartbeat.nonce)
        stopped = wait_until_stopped(home, heartbeat.nonce, STOPS_WITHIN_S)
        silent = not stopped and not is_alive(read_heartbeat(home) or heartbeat, datetime.now(UTC))
        if not unfinished and not stopped and not silent:
            raise StreamKeepsRunning(
                f"A stream that is no step of this cluster works on {home.root.uri} ({heartbeat.holder}) and does not "
                "stop; end it there, then run this again."
            )
    if unfinished and not stopped:
        say("The stream is ended with its step; what it had in hand is done again by the next one.")
        for step in unfinished:
            cancel(cloud, cluster, step)
        _wait_for_the_end(cloud, cluster, home, {submit(cloud, cluster, DRIVERS_END)})
    _wait_for_the_end(cloud, cluster, home, {step.id for step in unfinished})
    return bool(unfinished)


def _wait_for_the_end(cloud: Cloud, cluster: str, home: Home, ids: set[str]) -> None:
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while any(step.is_unfinished for step in all_steps(cloud, cluster) if step.id in ids):
        # A step that waited for the home has it now, and nobody has asked its stream yet.
        heartbeat = read_heartbeat(home)
        if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)):
            request_stop(home, heartbeat.nonce)
        if time.monotonic() > deadline_s:
            raise StreamKeepsRunning(
                f"The step {', '.join(sorted(ids))} has not ended; cancel it in EMR's console, then run this again."
            )
        time.sleep(POLL_S)


# Cancelling a step ends the process that waits for the driver, and not the driver.
DRIVERS_END = Step(
    "fruits-drivers-end",
    (
        "bash",
        "-c",
        "yarn application -list -appStates SUBMITTED,ACCEPTED,RUNNING"
        f" | awk '$2 == \"{step_name('stream')}\" {{print $1}}' | xargs --no-run-if-empty -n 1 yarn application -kill",
    ),
)
