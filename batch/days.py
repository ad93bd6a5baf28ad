"""The days of the feature rows: the files of each, whether more rows may come, and one featurizer's rows in them."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.featurizer import FEATURES
from features.pca import Moments, NotFinite, moments_of
from store.errors import StateDamaged
from store.home import Home
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import open_tables
from store.tables.schemas import FEATURE_ROWS
from store.tables.unsettled import unsettled_plans

# A share's moments are 6.6 MB: little beside what was read for them.
SHARE_BYTES = 64 * 2**20
# One task holds the moments of all shares of a day.
MOST_SHARES = 32


@dataclass(frozen=True)
class Day:
    """The data files of one ingest date, by path; `finished` when the stream will add nothing to it."""

    date: date
    files: tuple[DataFile, ...]
    finished: bool

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Share:
    """Neighbouring files of one day that one task reads."""

    date: date
    paths: tuple[str, ...]
    size_bytes: int


def list_days(home: Home) -> list[Day]:
    """The days that have feature rows, ascending; none before the table was created.

    A day is finished when it is past (UTC) and no plan that carries it waits to be committed to one of the tables.
    This is a guess that spares work: a batch may be planned or committed between two looks at storage.
    """
    tables = open_tables(home)
    growing = {plan.ingest_date for plan in unsettled_plans(home, tables)}
    today = datetime.now(UTC).date()
    files_of: dict[date, list[DataFile]] = defaultdict(list)
    for file in data_files(tables[FEATURE_ROWS]):
        files_of[file.partition["ingest_date"]].append(file)
    return [Day(day, tuple(files_of[day]), day < today and day not in growing) for day in sorted(files_of)]


def cut(day: Day) -> list[Share]:
    """A day as shares of at least 64 MB, at most 32 of them, in the order of paths.

    The cut depends on nothing but the files, so that sums over shares have the same bits on any cluster.
    """
    least_bytes = max(SHARE_BYTES, -(-day.size_bytes // MOST_SHARES))
    shares: list[Share] = []
    paths: list[str] = []
    size_bytes = 0
    for file in day.files:
        paths.append(file.path)
        size_bytes += file.size_bytes
        if size_bytes >= least_bytes or file is day.files[-1]:
            shares.append(Share(day.date, tuple(paths), size_bytes))
            paths, size_bytes = [], 0
    return shares


def sum_share(home: Home, featurizer: str, share: Share) -> tuple[Moments, Counter[int]]:
    """The moments of one featurizer's rows in a share, and how many each batch has of them.

    Raises NotFinite and StateDamaged, which name the day, for features that are no 1280 finite numbers, and
    StorageUnavailable.
    """
    rows_by_batch: Counter[int] = Counter()
    try:
        return moments_of(_vectors(home, featurizer, share, rows_by_batch), FEATURES), rows_by_batch
    except NotFinite as error:
        raise NotFinite(
            f"Features of {share.date} hold a NaN or an infinity, in one of {len(share.paths)} files from "
            f"{home.features.uri_of(share.paths[0])}; nothing was published. Delete those rows and their photos, "
            "then refit."
        ) from error


def count_rows(home: Home, featurizer: str, paths: Sequence[str]) -> Counter[int]:
    """How many rows of one featurizer each batch has in some files; their features are not fetched."""
    rows_by_batch: Counter[int] = Counter()
    for path in paths:
        for rows in _rows(home, featurizer, path, ["batch"]):
            rows_by_batch.update(rows["batch"].to_pylist())
    return rows_by_batch


def vectors_of(home: Home, day: date, path: str, rows: pa.RecordBatch) -> NDArray[np.float32]:
    """The features of some rows of a file, (n, 1280) float32; a missing number is NaN.

    Raises StateDamaged, which names the day and the batch, for a row that has not 1280 of them.
    """
    lengths = pc.fill_null(pc.list_value_length(rows["features"]), 0)
    wrong = pc.index(pc.not_equal(lengths, FEATURES), True).as_py()
    if wrong >= 0:
        raise StateDamaged(
            f"A row of {day}, of batch {rows['batch'][wrong]}, has {lengths[wrong]} features instead of {FEATURES} in "
            f"{home.features.uri_of(path)}; nothing was published. Delete that row, and try again."
        )
    vectors: NDArray[np.float32] = rows["features"].flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(-1, FEATURES)


def digest_of_paths(paths: Sequence[str]) -> str:
    """One short text for a list of files."""
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


def digest_of_rows(rows_by_batch: Mapping[int, int]) -> str:
    """One short text for {batch: rows}."""
    return hashlib.sha256(json.dumps(sorted(rows_by_batch.items())).encode()).hexdigest()


def _vectors(home: Home, featurizer: str, share: Share, rows_by_batch: Counter[int]) -> Iterator[NDArray[np.float32]]:
    for path in share.paths:
        for rows in _rows(home, featurizer, path, ["features", "batch"]):
            rows_by_batch.update(rows["batch"].to_pylist())
            yield vectors_of(home, share.date, path, rows)


def _rows(home: Home, featurizer: str, path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for rows in read_file(home, FEATURE_ROWS, path, (*columns, "featurizer")):
        is_ours = pc.equal(rows["featurizer"], featurizer)
        ours = chosen(rows.select(list(columns)), is_ours)
        if ours.num_rows:
            yield ours


def chosen(rows: pa.RecordBatch, wanted: pa.BooleanArray) -> pa.RecordBatch:
    """The wanted rows of a batch. All of them are the usual case, in which nothing is copied."""
    return rows if wanted.true_count == len(wanted) else rows.filter(wanted)
