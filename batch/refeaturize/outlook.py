"""What a refeaturization would do, and from where: told before anything is read but rows."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from batch.refeaturize.refeaturize import featurizers_to_fill
from batch.refeaturize.selection import photos_without
from store.home import Home
from store.objects.originals import find_original
from store.state.refeaturized import BatchOfDay
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import TableHandles, open_tables
from store.tables.lacking import lacking
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS

# So many batches tell where originals are, and in each so many photos.
_LOOKED_AT_BATCHES = 20
_LOOKED_AT_PHOTOS = 10
_LOOKS_AT_ONCE = 16


@dataclass(frozen=True)
class Outlook:
    """How many photos of how many days lack a featurizer, and how many of them have a copy, perhaps a damaged one.

    `places` is where originals of some of the others were found: `landing`, `archive`, `replaced`, `gone`, `unknown`.
    """

    featurizer: str
    photos: int
    days: int
    copies: int
    places: Mapping[str, int]


def outlooks(home: Home) -> list[Outlook]:
    """What lacks each featurizer in use. Raises StateDamaged, StorageRefused, StorageUnavailable."""
    tables = open_tables(home)
    return [_outlook(home, tables, featurizer) for featurizer in featurizers_to_fill(home)]


def _outlook(home: Home, tables: TableHandles, featurizer: str) -> Outlook:
    lacks = lacking(home, tables, featurizer, with_lost=True)
    copied = _copied(home, tables, {day for day, _ in lacks})
    copies = sum(min(photos, copied[batch]) for batch, photos in lacks.items())
    uncopied = [batch for batch, photos in lacks.items() if copied[batch] < photos]
    chosen = uncopied[:: max(1, len(uncopied) // _LOOKED_AT_BATCHES)][:_LOOKED_AT_BATCHES]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="originals") as pool:
        places = Counter(pool.map(partial(_place_of, home), _some_photos(home, tables, featurizer, chosen)))
    return Outlook(featurizer, sum(lacks.values()), len({day for day, _ in lacks}), copies, places)


def _copied(home: Home, tables: TableHandles, days: Collection[date]) -> Counter[BatchOfDay]:
    """How many copies the batches of some days have."""
    copied: Counter[BatchOfDay] = Counter()
    for file in data_files(tables[COPY_ROWS]) if days else ():
        day = file.partition["ingest_date"]
        if day not in days:
            continue
        if file.batches is not None and file.batches[0] == file.batches[1]:
            copied[day, file.batches[0]] += file.rows
            continue
        for part in read_file(home, COPY_ROWS, file.path, ["batch"]):
            copied.update((day, batch) for batch in part["batch"].to_pylist())
    return copied


def _some_photos(
    home: Home, tables: TableHandles, featurizer: str, batches: list[BatchOfDay]
) -> Iterator[dict[str, Any]]:
    of_days: dict[date, list[DataFile]] = defaultdict(list)
    for file in data_files(tables[FEATURE_ROWS]) if batches else ():
        of_days[file.partition["ingest_date"]].append(file)
    for day, batch in batches:
        files = [file for file in of_days[day] if file.batches is None or file.batches[0] <= batch <= file.batches[1]]
        rows = photos_without(home, featurizer, [batch], files)
        yield from rows.slice(0, _LOOKED_AT_PHOTOS).to_pylist()


def _place_of(home: Home, row: Mapping[str, Any]) -> str:
    return find_original(home, row["source"], row["etag"], row["bytes"], row["arrived_at"]).place
