"""Stopping the stream from anywhere: a request in the home, which it finds."""

from collections.abc import Callable
from datetime import UTC, datetime

from store.errors import StreamDoesNotStop
from store.home import Home
from store.state.heartbeat import is_alive, read_heartbeat, request_stop, wait_until_stopped

# Batches are some 20 s long, but caps, a slow cluster and two minutes of patience with storage can make them longer.
WAIT_S = 15 * 60.0


def stop_running(home: Home, wait: bool, say: Callable[[str], None]) -> None:
    """Ask the home's stream to stop and, with `wait`, return once it has; `say` is told what is found and done.

    Replay asks again. Raises StreamDoesNotStop after 15 minutes, or when it falls silent, StorageUnavailable.
    """
    heartbeat = read_heartbeat(home)
    if heartbeat is None or heartbeat.ended_at is not None:
        say(f"No stream is running on {home.root.uri}.")
        return
    # One that is silent may be paused, and then finds the request when it goes on.
    request_stop(home, heartbeat.nonce)
    whose = f"the stream on {home.root.uri} ({heartbeat.holder})"
    if not is_alive(heartbeat, datetime.now(UTC)):
        say(
            f"Nothing is known to run: {whose} has been silent since {heartbeat.beat_at:%Y-%m-%d %H:%M:%S} UTC. "
            "If it comes back, it will stop."
        )
    elif not wait:
        say(f"Asked {whose} to stop; it finishes the batches in hand first.")
    else:
        say(f"Asked {whose} to stop; waiting for the batches in hand …")
        if not wait_until_stopped(home, heartbeat.nonce, WAIT_S):
            raise StreamDoesNotStop(
                f"{whose[0].upper()}{whose[1:]} has not said that it stopped; "
                "look with `fruits status`, and end its process if it is stuck: nothing is lost."
            )
        say("The stream has stopped.")
