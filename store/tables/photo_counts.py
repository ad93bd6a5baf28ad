"""How many photos the feature rows are of: each has a row of every network that made features of it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from store.errors import NetworkIncomplete
from store.home import Home
from store.objects.faults import retry_storage
from store.tables.files import DataFile, data_files
from store.tables.handles import open_tables
from store.tables.lacking import lacking
from store.tables.schemas import FEATURE_ROWS

_ARRIVAL = ("batch", "source", "etag")


@dataclass(frozen=True)
class PhotosOfNetwork:
    """How many of a home's photos have a row of a network, and how many of the others can still get one."""

    featurizer: str
    photos: int
    with_rows: int
    lacking: int

    def __str__(self) -> str:
        return f"Featurizer {self.featurizer} has rows of {self.with_rows:,} of {self.photos:,} photos"


def photos_of_network(home: Home, featurizer: str) -> PhotosOfNetwork:
    """What rows a network has. Raises StateDamaged, StorageRefused, StorageUnavailable."""
    tables = open_tables(home)
    with_lost = sum(lacking(home, tables, featurizer, with_lost=True).values())
    rows = count_photos(tables[FEATURE_ROWS], lambda _: True)
    return PhotosOfNetwork(
        featurizer, rows, max(rows - with_lost, 0), sum(lacking(home, tables, featurizer).values()) if with_lost else 0
    )


def check_has_all_photos(home: Home, featurizer: str, version: int) -> None:
    """Raises NetworkIncomplete if a version cannot be served yet, because photos lack a row of its network."""
    if lacking(home, open_tables(home), featurizer):
        network = photos_of_network(home, featurizer)
        raise NetworkIncomplete(
            f"Version {version} cannot be served yet: its featurizer {featurizer} has rows of {network.with_rows:,} of "
            f"{network.photos:,} photos; run `fruits refeaturize`, then `fruits reproject` again."
        )


def count_photos(handle: DeltaTable | None, is_wanted: Callable[[date], bool]) -> int:
    """How many photos have feature rows of the wanted days.

    Days whose files are all of one network are not read; of the others, which photo each row is of, one day in memory
    at a time. Raises StorageRefused, StorageUnavailable.
    """
    if handle is None:
        return 0
    return sum(
        sum(file.rows for file in files) if len({file.network for file in files}) == 1 else _photos_on(handle, day)
        for day, files in _files_by_day(handle, is_wanted).items()
    )


def has_photos(handle: DeltaTable | None, is_wanted: Callable[[date], bool], expected: int) -> bool:
    """Whether at least so many photos have feature rows of the wanted days. Raises as `count_photos`.

    Usually the numbers of rows of each network tell so, and nothing is read.
    """
    days = _files_by_day(handle, is_wanted)
    return sum(map(_photos_at_least, days.values())) >= expected or count_photos(handle, is_wanted) >= expected


def _files_by_day(handle: DeltaTable | None, is_wanted: Callable[[date], bool]) -> dict[date, list[DataFile]]:
    days: dict[date, list[DataFile]] = defaultdict(list)
    for file in data_files(handle):
        if is_wanted(file.partition["ingest_date"]):
            days[file.partition["ingest_date"]].append(file)
    return days


def _photos_at_least(files: Iterable[DataFile]) -> int:
    # No photo has two rows of one network, nor two in files of former releases.
    rows: Counter[str | None] = Counter()
    for file in files:
        rows[file.network] += file.rows
    return max(rows.values())


def _photos_on(handle: DeltaTable, day: date) -> int:
    def read() -> pa.Table:
        return handle.to_pyarrow_dataset().to_table(list(_ARRIVAL), filter=pc.field("ingest_date") == day)

    rows = retry_storage(f"read {FEATURE_ROWS.name}", read)
    return int(rows.group_by(list(_ARRIVAL)).aggregate([]).num_rows)
