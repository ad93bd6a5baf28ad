"""The days of the feature rows: the files of each, whether more rows may come, and one featurizer's rows in them."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.label_corrections import Corrections, CorrectionSummer
from features.label_sums import RowSummer, RowSums
from features.pca import NotFinite
from store.errors import StateDamaged
from store.home import Home
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import TableHandles, open_tables, unsettled_plans
from store.tables.labels import NOTHING_SAID, SaidLabels
from store.tables.schemas import FEATURE_ROWS

# A task's moments are 6.6 MB with 1280 features: little beside what it reads for them.
TASK_BYTES = 64 * 2**20
TASKS_A_DAY = 32
_SUMMED = ("image_id", "features", "batch", "label", "subject")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Day:
    """Data files of one ingest date, all or some; `finished` when the stream will add nothing to it."""

    date: date
    files: tuple[DataFile, ...]
    finished: bool

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def list_days(home: Home, tables: TableHandles | None = None, featurizer: str | None = None) -> list[Day]:
    """The days that have feature rows, ascending, in these open tables; none before the table was created.

    With `featurizer`, only the files that may hold rows of this one.
    A day is finished when it is past (UTC) and no plan that carries it waits to be committed to one of the tables.
    This is a guess that spares work: a batch may be planned or committed between two looks at storage.
    """
    tables = tables or open_tables(home)
    growing = {plan.ingest_date for plan in unsettled_plans(home, tables)}
    today = datetime.now(UTC).date()
    files_of: dict[date, list[DataFile]] = defaultdict(list)
    for file in data_files(tables[FEATURE_ROWS]):
        if featurizer is not None and not file.may_hold(featurizer):
            continue
        files_of[file.partition["ingest_date"]].append(file)
    return [Day(day, tuple(files_of[day]), day < today and day not in growing) for day in sorted(files_of)]


def split_into_tasks(day: Day) -> list[Day]:
    """A day's files in tasks of some 64 MB; larger ones where there would be more than about 32."""
    task_bytes = max(TASK_BYTES, day.size_bytes // TASKS_A_DAY)
    return [replace(day, files=files) for files in groups_by_size(day.files, lambda f: f.size_bytes, task_bytes)]


def groups_by_size(items: Iterable[_T], size_of: Callable[[_T], int], most_bytes: int) -> Iterator[tuple[_T, ...]]:
    """The items in their order, in groups of at most so many bytes; a larger item is a group of its own."""
    group: list[_T] = []
    group_bytes = 0
    for item in items:
        if group and group_bytes + size_of(item) > most_bytes:
            yield tuple(group)
            group, group_bytes = [], 0
        group.append(item)
        group_bytes += size_of(item)
    if group:
        yield tuple(group)


def sum_rows(
    home: Home, featurizer: str, length: int, task: Day, after_batch: int = 0, said: SaidLabels = NOTHING_SAID
) -> tuple[RowSums, Counter[int], Corrections]:
    """The sums of one featurizer's rows in a task's files, of later batches, by folder, and what statements change.

    Between the two: how many rows each batch has there. Raises NotFinite and StateDamaged, which name the day, for
    features that are not `length` finite numbers; StorageUnavailable.
    """
    rows_by_batch: Counter[int] = Counter()
    summer, corrections = RowSummer(length), CorrectionSummer(length)
    try:
        for path in task.paths:
            for rows in rows_of(home, featurizer, path, _SUMMED, after_batch):
                rows_by_batch.update(rows["batch"].to_pylist())
                vectors = vectors_of(home, length, task.date, path, rows)
                summer.add(vectors, NOTHING_SAID.labels_of(rows).to_pylist(), rows["subject"].to_pylist())
                _add_corrections(corrections, vectors, rows, said)
        return summer.result(), rows_by_batch, corrections.result()
    except NotFinite as error:
        raise NotFinite(
            f"Features of {task.date} hold a NaN or an infinity, in one of {len(task.paths)} files from "
            f"{home.features.uri_of(task.paths[0])}; nothing was published. Delete those rows and their photos, "
            "then refit."
        ) from error


def sum_corrections(home: Home, featurizer: str, length: int, task: Day, said: SaidLabels) -> Corrections:
    """What statements change in the sums of a task's files; features are fetched only of row groups that it changes.

    Raises StateDamaged, which names the day; StorageUnavailable.
    """
    corrections = CorrectionSummer(length)
    for path in task.paths:
        first, places = 0, [np.zeros(0, np.int64)]
        for rows in read_file(home, FEATURE_ROWS, path, ["image_id", "label", "featurizer"]):
            is_changed = pc.and_(said.changes(rows), pc.equal(rows["featurizer"], featurizer))
            places.append(pc.indices_nonzero(is_changed).to_numpy().astype(np.int64) + first)
            first += rows.num_rows
        changed = np.concatenate(places)
        for rows in read_file(home, FEATURE_ROWS, path, _SUMMED, changed) if len(changed) else ():
            _add_corrections(corrections, vectors_of(home, length, task.date, path, rows), rows, said)
    return corrections.result()


def _add_corrections(
    corrections: CorrectionSummer, vectors: NDArray[np.float32], rows: pa.RecordBatch, said: SaidLabels
) -> None:
    is_changed = said.changes(rows)
    if is_changed.true_count:
        changed = rows.select(["image_id", "label", "subject"]).filter(is_changed)
        corrections.add(
            vectors[is_changed.to_numpy(zero_copy_only=False)],
            NOTHING_SAID.labels_of(changed).to_pylist(),
            said.labels_of(changed).to_pylist(),
            changed["subject"].to_pylist(),
        )


def count_rows(home: Home, featurizer: str, path: str) -> Counter[int]:
    """How many rows of one featurizer each batch has in a file; their features are not fetched."""
    return Counter(batch for rows in rows_of(home, featurizer, path, ["batch"]) for batch in rows["batch"].to_pylist())


def vectors_of(home: Home, length: int, day: date, path: str, rows: pa.RecordBatch) -> NDArray[np.float32]:
    """Features of one featurizer's rows, (n, length) float32, NaN for null.

    Raises StateDamaged, with day and batch, for another length.
    """
    lengths = pc.fill_null(pc.list_value_length(rows["features"]), 0)
    wrong = pc.index(pc.not_equal(lengths, length), True).as_py()
    if wrong >= 0:
        raise StateDamaged(
            f"A row of {day}, of batch {rows['batch'][wrong]}, has {lengths[wrong]} features instead of {length} in "
            f"{home.features.uri_of(path)}; nothing was published. Delete that row, and try again."
        )
    vectors: NDArray[np.float32] = rows["features"].flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(-1, length)


def digest_of_paths(paths: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


def digest_of_rows(rows_by_batch: Mapping[int, int]) -> str:
    return hashlib.sha256(json.dumps(sorted(rows_by_batch.items())).encode()).hexdigest()


def rows_of(
    home: Home, featurizer: str, path: str, columns: Sequence[str], after_batch: int = 0
) -> Iterator[pa.RecordBatch]:
    """Some columns of one featurizer's rows in a file, of batches beyond `after_batch`. Raises as `read_file`."""
    for rows in read_file(home, FEATURE_ROWS, path, tuple(dict.fromkeys((*columns, "featurizer", "batch")))):
        mask = pc.and_(pc.equal(rows["featurizer"], featurizer), pc.greater(rows["batch"], after_batch))
        selected = select_rows(rows.select(list(columns)), mask)
        if selected.num_rows:
            yield selected


def select_rows(rows: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """The rows that a mask marks. Usually it marks all of them, and then nothing is copied."""
    return rows if mask.true_count == len(mask) else rows.filter(mask)
