"""The claim on a home: one stream works on it at a time, and a dead one blocks nobody for long."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from store.errors import AnotherStreamRunning
from store.home import Home
from store.state.heartbeat import SILENT_AFTER, Heartbeat, HeartbeatWriter, Vitals
from store.state.holder import SignsOfLife, is_gone, this_process

TAKEN_OVER_AFTER_S = SILENT_AFTER.total_seconds()
SAID_AGAIN_AFTER_S = 60.0
LOOK_S = 1.0


@contextmanager
def hold_claim(
    home: Home, stop: threading.Event, say: Callable[[str], None], waits: bool, vitals: Callable[[], Vitals | None]
) -> Iterator[HeartbeatWriter | None]:
    """Hold a home for one stream while entered, with signs of life from the first moment on.

    The claim of a stream that ended, or whose process is gone from this machine, is taken over at once. Any other claim
    is taken over when its sign has not changed for 60 s by this process's own clock; `say` is told of such a wait.
    If the other stream lives, this raises AnotherStreamRunning; with `waits` it waits, and `say` is told each minute.
    Yields None if `stop` is set meanwhile. Of two streams at once one gets the home. Raises StorageUnavailable.
    """
    heart = HeartbeatWriter(home, uuid.uuid4().hex, lambda: None, vitals)
    _HELD_HERE.add(heart.nonce)
    try:
        if not _claim(home, heart, stop, say, waits):
            yield None
            return
        with heart:
            yield heart
    finally:
        _HELD_HERE.discard(heart.nonce)


def _claim(home: Home, heart: HeartbeatWriter, stop: threading.Event, say: Callable[[str], None], waits: bool) -> bool:
    signs = SignsOfLife(TAKEN_OVER_AFTER_S)
    say_at_s = time.monotonic()
    lives = False
    while True:
        stored = heart.claim(partial(_is_free, signs.dead))
        if stored.nonce == heart.nonce:
            return True
        lives = signs.is_changed(_sign(stored)) or lives
        if lives and not waits:
            raise AnotherStreamRunning(
                f"A stream runs on {home.root.uri} already ({stored.holder}, since "
                f"{stored.started_at:%Y-%m-%d %H:%M:%S} UTC); stop it with `fruits stop`, or leave it to its work: "
                "this one has changed nothing."
            )
        if time.monotonic() >= say_at_s:
            say_at_s = time.monotonic() + SAID_AGAIN_AFTER_S
            until = "it ends" if lives else f"it gives a sign of life, or none for {TAKEN_OVER_AFTER_S:.0f} s"
            say(f"Another stream holds {home.root.uri} ({stored.holder}); waiting until {until} …")
        if stop.wait(LOOK_S):
            return False


def _sign(heartbeat: Heartbeat) -> tuple[object, ...]:
    return heartbeat.nonce, heartbeat.beat_at


def _is_free(dead: object, other: Heartbeat) -> bool:
    if other.ended_at is not None or _sign(other) == dead:
        return True
    if other.process is None:
        return False
    is_ours = other.process.start_ticks is not None and other.process == this_process()
    return (is_ours and other.nonce not in _HELD_HERE) or is_gone(other.process)


# A stream of this very process that could not tell its end is not waited for: the process lives, the stream does not.
_HELD_HERE: set[str] = set()
