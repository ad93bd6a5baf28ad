"""What one transaction of a refeaturization does: some batches of a day, and their photos that lack a network."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from batch.days import groups_by_size
from store.home import Home
from store.state.refeaturized import BatchOfDay
from store.tables.files import DataFile, data_files, read_file
from store.tables.lacking import rows_in_file
from store.tables.schemas import FEATURE_ROWS

_KEPT = [name for name in FEATURE_ROWS.file_schema.names if name != "features"]
_KEY = ("batch", "source", "etag")

# What tells a photo from the others of its day: batch, source and etag.
PhotoKey = tuple[int, str, str]


@dataclass(frozen=True)
class Share:
    """Batches of one day that one transaction completes, and how many of their photos lacked the network."""

    ingest_date: date
    batches: frozenset[int]
    photos: int


def shares_of(lacks: Mapping[BatchOfDay, int], most_photos: int, newest_first: bool) -> list[Share]:
    """All that lacks a network in shares of at most so many photos; a larger batch is a share of its own."""
    of_days: dict[date, list[tuple[int, int]]] = defaultdict(list)
    for (day, batch), photos in sorted(lacks.items(), reverse=newest_first):
        of_days[day].append((batch, photos))
    return [
        Share(day, frozenset(batch for batch, _ in group), sum(photos for _, photos in group))
        for day, batches in of_days.items()
        for group in groups_by_size(batches, lambda of_batch: of_batch[1], most_photos)
    ]


def photos_without(home: Home, featurizer: str, batches: Collection[int], files: Sequence[DataFile]) -> pa.Table:
    """Rows of the photos of some batches of a day that lack a network, as other networks' have them, without features.

    `files` are all the day's. A photo comes once, those of a batch in the order of the files. Raises as `read_file`.
    """
    has = {(of_row, file.path) for file in files for of_row in rows_in_file(home, file) if of_row[0] in batches}
    own = {batch for (batch, network), _ in has if network == featurizer}
    others = {path for (_, network), path in has if network != featurizer}
    known: set[PhotoKey] = set()
    for path in {path for (batch, network), path in has if network == featurizer}:
        for part in read_file(home, FEATURE_ROWS, path, [*_KEY, "featurizer"]):
            rows = part.filter(pc.and_(_is_of(part, own), pc.equal(part["featurizer"], featurizer)))
            known.update(photo_keys(rows))
    found: list[pa.RecordBatch] = []
    for path in sorted(others):
        for part in _rows_of_others(home, featurizer, batches, path):
            is_new = []
            for key in photo_keys(part):
                is_new.append(key not in known)
                known.add(key)
            found.append(part.filter(pa.array(is_new, pa.bool_())))
    rows = pa.Table.from_batches(found, pa.schema([FEATURE_ROWS.schema.field(name) for name in _KEPT]))
    return rows.take(pc.sort_indices(rows["batch"])) if rows.num_rows else rows


def files_of(share: Share, handle: DeltaTable | None) -> list[DataFile]:
    """The files of a table with rows of the share's day that may be of its batches; none without the table."""
    lowest, highest = min(share.batches), max(share.batches)
    return [
        file
        for file in data_files(handle, share.ingest_date)
        if file.batches is None or (file.batches[0] <= highest and lowest <= file.batches[1])
    ]


def photo_keys(rows: pa.RecordBatch | pa.Table) -> list[PhotoKey]:
    """The key of each row."""
    return list(zip(*(rows[name].to_pylist() for name in _KEY), strict=True))


def _rows_of_others(home: Home, featurizer: str, batches: Collection[int], path: str) -> Iterator[pa.RecordBatch]:
    first, places = 0, [np.zeros(0, np.int64)]
    for part in read_file(home, FEATURE_ROWS, path, ["batch", "featurizer"]):
        is_theirs = pc.and_(_is_of(part, batches), pc.not_equal(part["featurizer"], featurizer))
        places.append(pc.indices_nonzero(is_theirs).to_numpy().astype(np.int64) + first)
        first += part.num_rows
    yield from read_file(home, FEATURE_ROWS, path, _KEPT, np.concatenate(places))


def _is_of(rows: pa.RecordBatch, batches: Collection[int]) -> pa.BooleanArray:
    return pc.is_in(rows["batch"], value_set=pa.array(sorted(batches), pa.int64()))
