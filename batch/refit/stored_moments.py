"""Stored moments of finished days and months, so that a refit reads only the features of days that changed.

Below `models/pca/moments/<featurizer>/` there are immutable objects under names never used twice, each with packed
moments: `days/<day>.<written at>.<nonce>.npz`, and `months/...` for the sum of a month's days. One small object per
month, `index/<month>.json`, is written after them. It names the objects, their hashes, and the rows each one sums up,
so a reader never takes one version's rows for another's sum: a killed refit leaves objects nobody names, and of two
refits at once one index stands whole. What the other had computed is then lost, which costs work and nothing else.

The tables are the truth, and all of this can be computed again. An index that cannot be read, and an object that is
missing or has another hash, are therefore treated as never written.
"""

import hashlib
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from store.home import Home
from store.objects.document import Document
from store.objects.location import StorageLocation
from store.objects.operations import delete_all, keys_below, overwrite, read_if_exists

# Longer than a refit takes from its first object to its index.
UNNAMED_KEPT = timedelta(days=1)

_WRITTEN_AT = "%Y%m%dT%H%M%SZ"
_OBJECT_KEY = re.compile(r"(?:days|months)/[\d-]+\.(\d{8}T\d{6}Z)\.[0-9a-f]{32}\.npz")
_INDEX_KEY = re.compile(r"index/(\d{4}-\d{2})\.json")


@dataclass(frozen=True)
class StoredSum:
    """One immutable object of packed moments."""

    key: str
    sha256: str


@dataclass(frozen=True)
class StoredDay:
    """What a day's moments are the sum of: digests of the files' paths and of {batch: rows}; no object for no rows.

    The same files hold the same rows. So do other files with the same number of rows in every batch: a batch's rows
    are appended once, and after that they can only be deleted. Whoever restores or updates rows by hand refits with
    `--full`.
    """

    paths_digest: str
    rows_digest: str
    rows: int
    sum: StoredSum | None


@dataclass(frozen=True)
class StoredMonth:
    """The finished days of one month, and their sum; `summed` are the keys of the days' objects in it, in order.

    A running month has a sum too: the rule is the same for all months, and the objects of its days are read again
    only after another of them was finished.
    """

    days: Mapping[date, StoredDay] = field(default_factory=dict)
    sum: StoredSum | None = None
    summed: tuple[str, ...] = ()
    format: Literal[1] = 1


_MONTH = Document(StoredMonth, "index/{}.json", remedy="delete it", indent=None)


def all_moments(home: Home) -> StorageLocation:
    """Where the moments of all featurizers are stored."""
    return home.pca_models.child("moments")


def store_of(home: Home, featurizer: str) -> StorageLocation:
    """Where the moments of one featurizer are stored."""
    return all_moments(home).child(featurizer)


def read_month(store: StorageLocation, month: str) -> StoredMonth:
    """What is stored for a month (`2026-10`); an empty one when there is nothing, or nothing that can be read."""
    return _MONTH.read(store, month, unreadable_as_missing=True) or StoredMonth()


def write_month(store: StorageLocation, month: str, stored: StoredMonth) -> None:
    """Replace what is known of a month; the objects it names must be there."""
    _MONTH.write(store, stored, month)


def read_sum(store: StorageLocation, stored: StoredSum) -> bytes | None:
    """The packed moments of an object, or None when it is missing or its bytes are not those that were written."""
    body = read_if_exists(store, stored.key)
    return body if body is not None and hashlib.sha256(body).hexdigest() == stored.sha256 else None


def write_day_sum(store: StorageLocation, day: date, body: bytes) -> StoredSum:
    """Write a day's packed moments under a new name. Replay writes another object, and one of them is never named."""
    return _write_sum(store, f"days/{day}", body)


def write_month_sum(store: StorageLocation, month: str, body: bytes) -> StoredSum:
    """Write the packed moments of a month's finished days, as `write_day_sum` does for a day."""
    return _write_sum(store, f"months/{month}", body)


def delete_unused_sums(store: StorageLocation, months: Collection[str]) -> None:
    """Remove the indexes of all other months, and the objects older than a day that no index names.

    A refit at the same time may just have read an older index; it finds an object missing and computes it again.
    Raises StorageRefused, StorageUnavailable.
    """
    # Listed before the indexes are read: what is named later was written later.
    keys = list(keys_below(store))
    indexed = {match[1] for key in keys if (match := _INDEX_KEY.fullmatch(key))}
    delete_all(store, [_MONTH.key(month) for month in sorted(indexed.difference(months))])
    named = {key for month in indexed.intersection(months) for key in _named(read_month(store, month))}
    eldest = (datetime.now(UTC) - UNNAMED_KEPT).strftime(_WRITTEN_AT)
    objects = [match for key in keys if (match := _OBJECT_KEY.fullmatch(key))]
    delete_all(store, [match[0] for match in objects if match[0] not in named and match[1] < eldest])


def forget_moments(home: Home, days: Collection[date] | None = None) -> int:
    """Remove what is stored of some days and their months, or of all, for every featurizer; says how many objects.

    A refit computes them again. Replay removes nothing more. Raises StorageUnavailable.
    """
    store = all_moments(home)
    wanted = None if days is None else {f"{day}" for day in days} | {f"{day:%Y-%m}" for day in days}
    keys = [key for key in keys_below(store) if wanted is None or _dated(key) in wanted]
    return delete_all(store, keys) if keys else 0


def _dated(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[0]


def _named(month: StoredMonth) -> set[str]:
    sums = [month.sum, *(day.sum for day in month.days.values())]
    return {stored.key for stored in sums if stored is not None}


def _write_sum(store: StorageLocation, name: str, body: bytes) -> StoredSum:
    key = f"{name}.{datetime.now(UTC).strftime(_WRITTEN_AT)}.{uuid.uuid4().hex}.npz"
    overwrite(store, key, body)
    return StoredSum(key, hashlib.sha256(body).hexdigest())
