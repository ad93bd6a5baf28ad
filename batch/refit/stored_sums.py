"""Stored sums of finished days and months, so that a refit reads only the features of days that changed.

Below `models/pca/moments/<featurizer>/` there are immutable objects under names never used twice, each with packed
sums: `days/<day>.<written at>.<nonce>.npz`, and `months/...` for the sum of a month's days. They go by the labels of
folders; `corrections/<day>...` is what people's statements change in a day's sum. One small object per month,
`index/<month>.json`, is written after them. It names the objects, their hashes, and the rows each one sums up, so a
reader never takes a sum for one of other rows. A killed refit leaves objects that no index names. If two refits
run at once, one index stands whole; the work of the other is lost, and nothing else.

The tables are the truth, and all of this can be computed again. An index that cannot be read counts as never written,
and so does an object that is missing or has another hash.
"""

import hashlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from batch.label_corrections import Corrections, pack_corrections, unpack_corrections
from features.label_sums import RowSums, pack_sums, unpack_sums
from store.home import Home
from store.objects.document import Document
from store.objects.location import StorageLocation
from store.objects.operations import delete_all, keys_below, old_keys, overwrite, read_if_exists

# Longer than a refit takes from its first object to its index.
UNNAMED_KEPT = timedelta(days=1)


@dataclass(frozen=True)
class StoredSum:
    """One immutable object of packed sums."""

    key: str
    sha256: str


@dataclass(frozen=True)
class StoredDay:
    """What a day's moments are the sum of: digests of the files' paths and of {batch: rows}; no object for no rows.

    `corrections` is of the statements with this digest, None where nothing is changed.

    The same files hold the same rows. So do other files with the same number of rows in every batch: a batch's rows
    are appended once, and after that they can only be deleted. Whoever restores or updates rows by hand refits with
    `--full`.
    """

    paths_digest: str
    rows_digest: str
    rows: int
    sum: StoredSum | None
    labels_digest: str | None = None
    corrections: StoredSum | None = None

    @property
    def objects(self) -> tuple[StoredSum, ...]:
        """All objects of the day."""
        return tuple(stored for stored in (self.sum, self.corrections) if stored)


@dataclass(frozen=True)
class StoredMonth:
    """The finished days of one month, and their sum; `summed` are the keys of the days' objects in it."""

    days: Mapping[date, StoredDay] = field(default_factory=dict)
    sum: StoredSum | None = None
    summed: tuple[str, ...] = ()
    format: Literal[2] = 2


_MONTH = Document(StoredMonth, "index/{}.json", remedy="delete it", indent=None)


def all_sums(home: Home) -> StorageLocation:
    return home.pca_models.child("moments")


def store_of(home: Home, featurizer: str) -> StorageLocation:
    return all_sums(home).child(featurizer)


def read_month(store: StorageLocation, month: str) -> StoredMonth:
    """What is stored for a month (`2026-10`); an empty one when there is nothing, or nothing that can be read."""
    return _MONTH.read(store, month, unreadable_as_missing=True) or StoredMonth()


def write_month(store: StorageLocation, month: str, index: StoredMonth) -> None:
    """Replace a month's index; the objects it names must be there."""
    _MONTH.write(store, index, month)


def read_sum(store: StorageLocation, stored: StoredSum) -> RowSums | None:
    """The sums of an object, or None when it is missing or its bytes are not those that were written."""
    body = _read(store, stored)
    return None if body is None else unpack_sums(body)


def write_sum(store: StorageLocation, folder: Literal["days", "months"], name: str, sums: RowSums) -> StoredSum:
    """Write the sums of a day or a month under a new key. Replay writes another object; no index names the first."""
    return _write(store, f"{folder}/{name}", pack_sums(sums))


def read_corrections(store: StorageLocation, stored: StoredSum) -> Corrections | None:
    """The corrections of an object, or None as `read_sum`."""
    body = _read(store, stored)
    return None if body is None else unpack_corrections(body)


def write_corrections(store: StorageLocation, day: date, corrections: Corrections) -> StoredSum:
    """Write what statements change in a day's sums, as `write_sum` does."""
    return _write(store, f"corrections/{day}", pack_corrections(corrections))


def delete_unused_sums(store: StorageLocation, months: Collection[str]) -> None:
    """Delete the indexes of all other months, and the objects older than a day that no index names.

    If another refit has just read an older index, it finds an object missing and computes it again.
    Raises StorageRefused, StorageUnavailable.
    """
    index_keys = set(map(_MONTH.key, months))
    # Listed before the indexes are read: what is named later was written later.
    old_sums = {key for key in old_keys(store, UNNAMED_KEPT) if key.endswith(".npz")}
    delete_all(store, [key for key in keys_below(store) if key.startswith("index/") and key not in index_keys])
    for month in months if old_sums else ():
        index = read_month(store, month)
        of_days = (stored for day in index.days.values() for stored in day.objects)
        old_sums -= {stored.key for stored in (index.sum, *of_days) if stored}
    delete_all(store, old_sums)


def forget_sums(home: Home, days: Collection[date] | None = None) -> int:
    """Delete what is stored of some days and their months, or of all, for every featurizer; says how many objects.

    A refit computes them again. Replay deletes nothing more. Raises StorageUnavailable.
    """
    store = all_sums(home)
    names = None if days is None else {f"{day}" for day in days} | {f"{day:%Y-%m}" for day in days}
    keys = [key for key in keys_below(store) if names is None or key.rpartition("/")[2].partition(".")[0] in names]
    return delete_all(store, keys)


def _read(store: StorageLocation, stored: StoredSum) -> bytes | None:
    body = read_if_exists(store, stored.key)
    return body if body is not None and hashlib.sha256(body).hexdigest() == stored.sha256 else None


def _write(store: StorageLocation, name: str, body: bytes) -> StoredSum:
    key = f"{name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{uuid.uuid4().hex}.npz"
    overwrite(store, key, body)
    return StoredSum(key, hashlib.sha256(body).hexdigest())
