"""How numbers read in a sentence."""

from datetime import timedelta


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
