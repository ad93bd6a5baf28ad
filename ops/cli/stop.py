"""The command that stops the stream from anywhere: it writes a request into the home, which the stream finds."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo
from store.errors import StreamDoesNotStop

# A batch takes some 20 s. Caps, a slow cluster and two minutes of patience with storage can make it longer.
WAIT_S = 15 * 60.0


@takes_settings(*HOME)
def stop_stream(
    flags: Flags,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when the stream has ended, or at once.")
    ] = True,
) -> None:
    """Ask the running stream, wherever it runs, to finish the batches in hand and end."""
    from store.state.heartbeat import is_alive, read_heartbeat, request_stop, wait_until_stopped

    home = flags.open_to_change().locations()
    heartbeat = read_heartbeat(home)
    if heartbeat is None or heartbeat.ended_at is not None:
        echo(f"No stream is running on {home.root.uri}.")
        return
    # One that is silent may be paused, and then finds the request when it goes on.
    request_stop(home, heartbeat.nonce)
    stream = f"the stream on {home.root.uri} ({heartbeat.holder})"
    if not is_alive(heartbeat, datetime.now(UTC)):
        echo(
            f"Nothing is known to run: {stream} has been silent since {heartbeat.beat_at:%Y-%m-%d %H:%M:%S} UTC. "
            "If it comes back, it will stop."
        )
    elif not wait:
        echo(f"Asked {stream} to stop; it finishes the batches in hand first.")
    else:
        echo(f"Asked {stream} to stop; waiting for the batches in hand …")
        if not wait_until_stopped(home, heartbeat.nonce, WAIT_S):
            raise StreamDoesNotStop(
                f"{stream[0].upper()}{stream[1:]} has not said that it stopped; "
                "look with `fruits status`, and end its process if it is stuck: nothing is lost."
            )
        echo("The stream has stopped.")
