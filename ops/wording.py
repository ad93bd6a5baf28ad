"""How numbers read in a sentence, and how other people's words reach a terminal."""

import re
from datetime import timedelta

# What a terminal obeys instead of showing: C0 without tab and newline, DEL and C1; and what turns the line's direction.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text that only shows: a key may hold what renames a window, clears the screen or turns the line around."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def duration(long: timedelta) -> str:
    """`8 s`, `5 min`, `2 h 10 min`, `3 days`; never less than nothing, since clocks differ."""
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


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 photo`, `1,200 photos`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
