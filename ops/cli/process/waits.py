"""Messages about storage that does not answer: sentences on a terminal, JSON lines in a log."""

import sys
from datetime import timedelta

from ops.cli.console import messages, notify
from ops.wording import duration
from store.objects.waits import Recovery, Wait, report_waits_to


def tell_waits() -> None:
    """From now on, tell on standard error of each wait for storage once, and when it is over."""
    report_waits_to(_tell)


def sentence_of(told: Wait | Recovery) -> str:
    """What is waited for and for how long, or that the wait is over."""
    if isinstance(told, Recovery):
        return f"Storage answers again, after {_seconds(told.waited_s)}."
    if told.is_full:
        return (
            f"The disk is full: cannot {told.what}. Make room there; it is tried again for {_seconds(told.patience_s)}."
        )
    because = f": {told.reason}" if told.reason else ""
    return (
        f"Waiting for storage to {told.what}, without an answer for {_seconds(told.waited_s)}{because}. "
        f"It is tried for {_seconds(told.patience_s)}."
    )


def _tell(told: Wait | Recovery) -> None:
    if messages.is_terminal:
        notify(sentence_of(told))
        return
    # Loaded only here: most commands never wait.
    from ops.monitor.json_lines import json_line, without_photo

    if isinstance(told, Recovery):
        line = json_line("info", "answered", message=sentence_of(told), waited_s=told.waited_s)
    else:
        message = without_photo(sentence_of(told), told.photo)
        line = json_line("warning", "waiting", message=message, waited_s=told.waited_s, patience_s=told.patience_s)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _seconds(long_s: float) -> str:
    return duration(timedelta(seconds=round(long_s))) if long_s >= 1 else f"{long_s:.1f} s"
