"""Which days' rows were deleted because of their age, so that nobody takes them for lost."""

from dataclasses import dataclass, replace
from datetime import date

from store.home import Home
from store.objects.document import Document


@dataclass(frozen=True)
class _Expired:
    before: date = date.min
    copies_before: date = date.min


_EXPIRED = Document(_Expired, "expired.json", remedy="restore it or delete it", indent=None)


def first_kept_day(home: Home) -> date:
    """The first day whose rows are kept; `date.min` if all days' are. Raises StateDamaged, StorageUnavailable."""
    return _read(home).before


def first_copied_day(home: Home) -> date:
    """The first day whose copies are kept; raises as `first_kept_day`."""
    expired = _read(home)
    return max(expired.before, expired.copies_before)


def raise_first_kept_day(home: Home, day: date) -> date:
    """Write down that rows of days before `day` are deleted, and return the day that holds: never an earlier one."""

    def edit(known: _Expired | None) -> _Expired:
        known = known or _Expired()
        return replace(known, before=max(day, known.before))

    return _EXPIRED.change(home.state, edit).before


def raise_first_copied_day(home: Home, day: date) -> date:
    """The same of copies."""

    def edit(known: _Expired | None) -> _Expired:
        known = known or _Expired()
        return replace(known, copies_before=max(day, known.copies_before))

    return _EXPIRED.change(home.state, edit).copies_before


def _read(home: Home) -> _Expired:
    return _EXPIRED.read(home.state) or _Expired()
