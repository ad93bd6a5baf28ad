"""Which days' rows were deleted because of their age, so that nobody takes them for lost."""

from dataclasses import dataclass
from datetime import date

from store.home import Home
from store.objects.document import Document


@dataclass(frozen=True)
class _Expired:
    before: date


_EXPIRED = Document(_Expired, "expired.json", remedy="restore it or delete it", indent=None)


def first_kept_day(home: Home) -> date:
    """The first day whose rows are kept; `date.min` if all days' are. Raises StateDamaged, StorageUnavailable."""
    expired = _EXPIRED.read(home.state)
    return expired.before if expired else date.min


def raise_first_kept_day(home: Home, day: date) -> date:
    """Write down that rows of days before `day` are deleted, and return the day that holds: never an earlier one."""
    return _EXPIRED.change(home.state, lambda known: _Expired(max(day, known.before if known else day))).before
