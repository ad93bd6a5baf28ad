"""Which days' rows were deleted because they were old, so that nobody takes them for lost."""

from dataclasses import dataclass
from datetime import date

from pydantic import TypeAdapter, ValidationError

from store.errors import StateDamaged
from store.home import Home
from store.objects.operations import change, read_if_exists

_KEY = "expired.json"


@dataclass(frozen=True)
class _Expired:
    before: date


_EXPIRED = TypeAdapter(_Expired)


def expired_before(home: Home) -> date:
    """The day from which on rows are kept; the first of all days when none were ever deleted for their age.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return _read(home, read_if_exists(home.state, _KEY))


def expire_before(home: Home, day: date) -> date:
    """Write down that rows of days before `day` are to go, and return the day that holds: never an earlier one."""

    def edited(body: bytes | None) -> bytes:
        return _EXPIRED.dump_json(_Expired(max(day, _read(home, body))))

    return _read(home, change(home.state, _KEY, edited))


def _read(home: Home, body: bytes | None) -> date:
    try:
        return date.min if body is None else _EXPIRED.validate_json(body).before
    except ValidationError as error:
        raise StateDamaged(f"{home.state.uri_of(_KEY)} cannot be read; restore it or delete it.") from error
