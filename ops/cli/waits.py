"""What is said of storage that does not answer: on a terminal a sentence, in a log one JSON object a line."""

import sys
from datetime import timedelta

from ops.cli.options import messages, say
from ops.wording import duration
from store.objects.waits import Answer, Wait, tell_of_waits


def say_waits() -> None:
    """From now on tell on standard error of each trouble with storage once, and when it is over."""

    def tell(told: Wait | Answer) -> None:
        if messages.is_terminal:
            say(sentence_of(told))
        else:
            _log(told)

    tell_of_waits(tell)


def sentence_of(told: Wait | Answer) -> str:
    """What is waited for and for how long, or that the wait is over."""
    if isinstance(told, Answer):
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


def _log(told: Wait | Answer) -> None:
    # Loaded only here: a command that is answered has no use for it.
    from ops.monitor.json_lines import json_line, without_photo

    if isinstance(told, Answer):
        line = json_line("info", "answered", message=sentence_of(told), waited_s=told.waited_s)
    else:
        message = without_photo(sentence_of(told), told.photo)
        line = json_line("warning", "waiting", message=message, waited_s=told.waited_s, patience_s=told.patience_s)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _seconds(long_s: float) -> str:
    return duration(timedelta(seconds=round(long_s))) if long_s >= 1 else f"{long_s:.1f} s"
