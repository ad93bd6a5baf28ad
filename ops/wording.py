"""Numbers in sentences, and texts of unknown origin on a terminal."""

import re
from datetime import timedelta

# C0 without tab and newline, DEL, C1, and the characters that change the direction of the line.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    """The text with its control characters escaped: a key may have some that clear the screen or rename a window."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def duration(long: timedelta) -> str:
    """`8 s`, `5 min`, `2 h 10 min`, `3 days`; never negative, since clocks differ."""
    seconds = max(0, int(long.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def size(size_bytes: int) -> str:
    """`12 kB`, `3.4 MB`, `1,234.5 GB`, in powers of ten."""
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:,.0f} kB"
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:,.1f} MB"
    return f"{size_bytes / 1e9:,.1f} GB"


def quantity(number: int, one: str, many: str | None = None) -> str:
    """`1 photo`, `1,200 photos`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
