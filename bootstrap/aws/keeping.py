"""What storage charges for what is kept of each photo: by place, period and storage class, once it no longer grows."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from bootstrap.aws.prices import Prices
from features.errors import InvalidSetting

DAYS_A_MONTH = 730 / 24
GIB = 2**30

StorageClass = Literal["Standard", "Standard-IA", "Glacier IR"]

# Of a copy of 300 px: docs/benchmarks.md, photos of 12 MP.
COPY_BYTES = 53_000
# A file of them once they are compacted.
COPY_FILE_BYTES = 128 * 2**20
# So often the archive, or the copies if there are any, are read as a whole, and features made again.
READS_A_YEAR = 1
# For how long the stack keeps a photo that was cleared away from the landing, as an old version.
CLEARED_DAYS = 1.0
# With a queue the landing is listed so often, and what is due is cleared away then.
LISTED_EVERY_DAYS = 0.25
KEYS_A_LISTING = 1_000
# A parquet file that a table no longer names is deleted after a day.
UNNAMED_DAYS = 1.0

_STANDARD_TIERS = {
    50 * 1024: "s3_gb_month",
    500 * 1024: "s3_gb_month_over_50_tib",
    math.inf: "s3_gb_month_over_500_tib",
}


@dataclass(frozen=True)
class Item:
    """One line of a month's bill; `stays` when `fruits destroy` leaves it.

    `price` is of one unit, the mean where units have several prices.
    """

    name: str
    quantity: float
    unit: str
    price: float
    stays: bool = False

    @property
    def dollars(self) -> float:
        return self.quantity * self.price


@dataclass(frozen=True)
class ClassTerms:
    """How S3 charges a class beside Standard; each of `prices` has a suffix of its own in the price list.

    A rule moves an object to it after `first_days` at the earliest, and none of fewer than `least_bytes`. An object
    that leaves it sooner is charged for `least_days`.
    """

    prices: str
    first_days: float
    least_days: float
    least_bytes: int = 128 * 1024


CLASS_TERMS = {
    "Standard-IA": ClassTerms("s3_ia", first_days=30, least_days=30),
    "Glacier IR": ClassTerms("s3_gir", first_days=0, least_days=90),
}


@dataclass(frozen=True)
class Keeping:
    """What is kept of a photo: its original where it landed, then in the archive, and its copy; in days, 0 for not.

    `archive_class` and `copy_class` are where a rule of S3 moves them as soon as it may. A new stage has the defaults:
    small clean copies, from which features can be made again for 13 months.
    """

    original_days: float = 7
    archive_days: float = 0
    copy_days: float = 395
    archive_class: StorageClass = "Standard"
    copy_class: StorageClass = "Standard"
    old_version_days: float = 30

    def __post_init__(self) -> None:
        days = (self.original_days, self.archive_days, self.copy_days, self.old_version_days)
        if any(each < 0 for each in days):
            raise InvalidSetting("Originals, archive, copies and old versions are kept 0 days or more.")
        if not {self.archive_class, self.copy_class} <= set(get_args(StorageClass)):
            raise InvalidSetting(f"A storage class is one of {', '.join(get_args(StorageClass))}.")

    @property
    def landed_days(self) -> float:
        """For how long S3 has a photo below landing/, the wait for a listing and the old version included."""
        wait_days = LISTED_EVERY_DAYS / 2 if self.original_days else 0.0
        return self.original_days + wait_days + CLEARED_DAYS

    @property
    def archived_days(self) -> float:
        """For how long it has a photo below archive/, as an old version included."""
        return self.archive_days + self.old_version_days if self.archive_days else 0.0

    @property
    def copied_days(self) -> float:
        """For how long it has a copy in a compacted file, the day until that goes and the old version included."""
        return self.copy_days + self.unnamed_days if self.copy_days else 0.0

    @property
    def unnamed_days(self) -> float:
        """For how long it has a file that no table names any more, like those that a compaction replaced."""
        return UNNAMED_DAYS + self.old_version_days

    @property
    def steady_after_days(self) -> float:
        """When as much goes as comes: from then on only the tables of rows grow."""
        return max(self.landed_days, self.archived_days, self.copied_days)


@dataclass(frozen=True)
class _Kept:
    """Objects of one kind: how many come in a day, of how many bytes each, and for how many days they stay."""

    name: str
    objects_a_day: float
    object_bytes: float
    days: float
    storage_class: StorageClass = "Standard"
    reads_a_year: float = 0.0

    @property
    def terms(self) -> ClassTerms | None:
        terms = CLASS_TERMS.get(self.storage_class)
        fits = terms is not None and self.object_bytes >= terms.least_bytes and self.days > terms.first_days
        return terms if fits else None

    @property
    def standard_days(self) -> float:
        return self.terms.first_days if self.terms else self.days

    def gib(self, days: float) -> float:
        return self.objects_a_day * self.object_bytes * days / GIB


def storage_items(
    keeping: Keeping,
    photos_per_day: float,
    photo_bytes: float,
    tables_gib: float,
    tables_name: str,
    prices: Prices,
) -> Iterator[Item]:
    """A month's storage, with what classes charge for moving and for reading.

    Of copies S3 sees the files of their table, of each day some large ones once they are compacted.
    """
    copies_bytes = photos_per_day * min(COPY_BYTES, photo_bytes) if keeping.copy_days else 0.0
    files = max(1.0, copies_bytes / COPY_FILE_BYTES) if copies_bytes else 0.0
    reads_archive = 0.0 if keeping.copy_days else READS_A_YEAR
    copy_bytes = copies_bytes / files if files else 0.0
    archive, copies = keeping.archive_class, keeping.copy_class
    kept = (
        _Kept("originals where they landed", photos_per_day, photo_bytes, keeping.landed_days),
        _Kept("archived originals", photos_per_day, photo_bytes, keeping.archived_days, archive, reads_archive),
        _Kept("copies before they were compacted", files, copy_bytes, keeping.unnamed_days),
        _Kept("copies", files, copy_bytes, keeping.copied_days, copies, READS_A_YEAR),
    )
    standard = [(each.name, each.gib(each.standard_days)) for each in kept]
    yield from _in_standard((*standard, (tables_name, tables_gib)), prices)
    for each in kept:
        yield from _in_class(each, prices)


def listings_a_month(keeping: Keeping, photos_per_day: float) -> float:
    """LIST requests for the photos that lie in the landing."""
    pages = photos_per_day * (keeping.landed_days - CLEARED_DAYS) / KEYS_A_LISTING
    return pages / LISTED_EVERY_DAYS * DAYS_A_MONTH


def _in_standard(parts: Iterable[tuple[str, float]], prices: Prices) -> Iterator[Item]:
    # The tiers count a bucket's bytes together, in this order.
    below_gib = 0.0
    for name, gib in parts:
        yield Item(f"S3: {name}", gib, "GiB-month", _tiered_price(below_gib, gib, prices), stays=True)
        below_gib += gib


def _in_class(kept: _Kept, prices: Prices) -> Iterator[Item]:
    terms = kept.terms
    if terms is None:
        return
    days = kept.days - terms.first_days
    monthly, moved, read = (prices.of(f"{terms.prices}_{what}") for what in ("gb_month", "move_thousand", "read_gb"))
    moves, gib_read = kept.objects_a_day * DAYS_A_MONTH, kept.gib(days) * kept.reads_a_year / 12
    charged_gib = kept.gib(max(days, terms.least_days))
    yield Item(f"S3: {kept.name} in a cheaper class", charged_gib, "GiB-month", monthly, stays=True)
    yield Item(f"S3: {kept.name}, moved to the class", moves / 1e3, "thousand", moved)
    yield Item(f"S3: {kept.name}, read from the class", gib_read, "GiB", read)


def _tiered_price(below_gib: float, gib: float, prices: Prices) -> float:
    """The mean price of one GiB in S3 Standard, on top of `below_gib`."""
    dollars, begin, end = 0.0, below_gib, below_gib + gib
    for top, service in _STANDARD_TIERS.items():
        dollars += max(0.0, min(end, top) - begin) * prices.of(service)
        begin = max(begin, min(end, top))
    return dollars / gib if gib else 0.0
