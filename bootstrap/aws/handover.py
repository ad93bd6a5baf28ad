"""Replaces the stage's stream by another one, without two at once and without losing a photo."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.steps import Step, cancel, cluster_steps, job_steps, step_name, submit
from store.errors import CloudUnavailable
from store.home import Home
from store.state.heartbeat import is_alive, read_heartbeat, request_stop, wait_until_stopped

# A batch under backlog takes some 20 s, and two may be in flight.
STOPS_WITHIN_S = 300.0
ENDS_WITHIN_S = 180.0
POLL_S = 5.0


class StreamKeepsRunning(CloudUnavailable):
    """The stream was asked to stop and has not; nothing was started beside it."""


def replace_stream(
    cloud: Cloud, cluster: str, home: Home, step: Step, echo: Callable[[str], None]
) -> Literal["runs already", "started", "handed over"]:
    """Make `step` the cluster's stream, and return what that took.

    The stream before finishes its batches first. Photos that land meanwhile wait for the next one. Replay changes
    nothing. Raises StreamKeepsRunning, CloudRefused, CloudUnavailable, StorageUnavailable.
    """
    unfinished = [one for one in job_steps(cloud, cluster, "stream") if one.is_unfinished]
    if len(unfinished) == 1 and unfinished[0].step == step and unfinished[0].state != "CANCEL_PENDING":
        return "runs already"
    stop_stream(cloud, cluster, home, echo)
    submit(cloud, cluster, step)
    return "handed over" if unfinished else "started"


def stop_stream(cloud: Cloud, cluster: str, home: Home, echo: Callable[[str], None]) -> bool:
    """Let the home's stream finish its batches and end; returns whether the cluster had a stream.

    A stream that does not stop, or gives no sign of life, is ended with its step: a killed stream loses nothing.
    Raises StreamKeepsRunning when it runs elsewhere and does not stop, CloudRefused, CloudUnavailable,
    StorageUnavailable.
    """
    unfinished = [step for step in job_steps(cloud, cluster, "stream") if step.is_unfinished]
    heartbeat = read_heartbeat(home)
    has_stopped = False
    if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)):
        echo("Asking the stream to finish its batches (up to 5 minutes) …")
        request_stop(home, heartbeat.nonce)
        has_stopped = wait_until_stopped(home, heartbeat.nonce, STOPS_WITHIN_S)
        if not unfinished and not has_stopped and is_alive(read_heartbeat(home) or heartbeat, datetime.now(UTC)):
            raise StreamKeepsRunning(
                f"A stream that is no step of this cluster works on {home.root.uri} ({heartbeat.holder}) and does not "
                "stop; end it there, then run this again."
            )
    if unfinished and not has_stopped:
        echo("The stream is ended with its step; the next stream repeats its unfinished batches.")
        for step in unfinished:
            cancel(cloud, cluster, step)
        _wait_for_the_end(cloud, cluster, home, {submit(cloud, cluster, KILL_DRIVERS)})
    _wait_for_the_end(cloud, cluster, home, {step.id for step in unfinished})
    return bool(unfinished)


def _wait_for_the_end(cloud: Cloud, cluster: str, home: Home, ids: set[str]) -> None:
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while any(step.is_unfinished for step in cluster_steps(cloud, cluster) if step.id in ids):
        # A step that waited for the home may have it now, and its stream was not asked yet.
        heartbeat = read_heartbeat(home)
        if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)):
            request_stop(home, heartbeat.nonce)
        if time.monotonic() > deadline_s:
            raise StreamKeepsRunning(
                f"The step {', '.join(sorted(ids))} has not ended; cancel it in EMR's console, then run this again."
            )
        time.sleep(POLL_S)


# Cancelling a step ends the process that waits for the driver, and not the driver.
KILL_DRIVERS = Step(
    "fruits-drivers-end",
    (
        "bash",
        "-c",
        "yarn application -list -appStates SUBMITTED,ACCEPTED,RUNNING"
        f" | awk '$2 == \"{step_name('stream')}\" {{print $1}}' | xargs --no-run-if-empty -n 1 yarn application -kill",
    ),
)
