"""Give every feature row its projection in the next PCA version, then serve that version."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from numpy.typing import NDArray
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from batch.days import groups_by_size, select_rows, vectors_of
from features.classifier import LeftOut
from features.task_errors import carry_errors, last_words
from features.worker_process import freeze_worker_modules
from store.errors import HomeInUse, JobFailed, StateDamaged
from store.home import Home
from store.models.pca_models import (
    PcaMeta,
    PcaModel,
    cached_model,
    check_no_other_switch,
    current_models,
    describe_model,
    finish_switch,
)
from store.state.erasures import check_no_erasure_started, read_erasures
from store.state.lease import hold_lease
from store.state.plans import AddedFile
from store.tables.commits import append_once
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import TableHandles, create_tables, open_tables, unsettled_plans
from store.tables.labels import NOTHING_SAID, SaidLabels, said_labels
from store.tables.projections import KEPT_COLUMNS, SWITCHING, project_rows, write_projections
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, TABLES, Table

if TYPE_CHECKING:
    from pyspark import Broadcast

TASK_BYTES = 64 * 2**20
# Among so many shares of the keys equal photos are looked for.
COPY_SHARES = 64
# How long a batch that was planned without the version may take to be committed.
PATIENCE_S = 120.0
POLL_INTERVAL_S = 1.0

# A file of feature rows, and the batches in it that lack the version.
_LackingFile = tuple[DataFile, frozenset[int]]


@dataclass(frozen=True)
class Reprojection:
    """What was done until `version` was served; rows that the stream projected itself are not counted."""

    version: int
    rows: int
    days: int


def reproject(
    spark: SparkContext,
    home: Home,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
    patience_s: float = PATIENCE_S,
) -> Reprojection | None:
    """Append what lacks the next version, day by day, and serve it when nothing lacks it; None without any version.

    Without a next version, what lacks the served one is appended: nothing does, unless state was lost or rows were
    deleted by hand. Each day is one transaction. `say` gets waits in words, `on_progress` rows done and rows in all.
    Killed at any point, a replay does the days that are left; run twice at once, the second one is refused. Photos may
    arrive meanwhile: the stream projects them with both versions. Raises HomeInUse, AnotherRefit when another version
    became the next one, JobFailed, StorageUnavailable.
    """
    if not current_models(home).versions:
        return None
    with hold_lease(home, "fruits reproject", say) as check_lease:
        # From here on, the table refuses what a paused `prune` decided by an older look at it.
        _open_tables(home)
        create_tables(home)
        append_once(home, PROJECTION_ROWS, SWITCHING, (), {}, lambda _: False)
        before = current_models(home)
        meta = describe_model(home, before.versions[-1])

        def check() -> None:
            check_lease()
            check_no_other_switch(before, current_models(home))

        said = spark.broadcast(_said_before_fit(home, meta))
        try:
            backfill = _Backfill(spark, home, meta, said, on_progress, check, read_erasures(home).progress)
            backfill.run()
            _wait_for_plans(home, meta, say, patience_s, check_lease)
            backfill.run()
        finally:
            said.destroy()
        if before.next is not None:
            finish_switch(home, before, meta.featurizer)
    return Reprojection(meta.version, backfill.rows, backfill.days)


@dataclass(frozen=True)
class _Task:
    """What one task reads and projects: files of one day, and in each the batches to take rows from.

    `said` had been said of photos before the fit; `copies` says how many rows of the fit have the same bytes and
    label, where it is more than one.
    """

    home: Home
    meta: PcaMeta
    said: "Broadcast[SaidLabels]"
    ingest_date: date
    files: tuple[tuple[str, frozenset[int]], ...]
    copies: Mapping[int, int]
    erasures: tuple[int, int]


@dataclass
class _Backfill:
    """Projects what lacks a version; batches `of_other_featurizers` lack nothing, `erasures` had come so far."""

    spark: SparkContext
    home: Home
    meta: PcaMeta
    said: "Broadcast[SaidLabels]"
    on_progress: Callable[[int, int], None]
    check: Callable[[], None]
    erasures: tuple[int, int]
    rows: int = 0
    days: int = 0
    copies: Mapping[int, int] = field(default_factory=dict)
    of_other_featurizers: set[tuple[date, int]] = field(default_factory=set)
    one_commit: Lock = field(default_factory=Lock)

    def run(self) -> None:
        """Repeat until no committed batch lacks the version: others are committed while this one works."""
        while days := self._lacking_files():
            self.copies = self._count_copies(days)
            done, total = 0, sum(file.rows for files in days.values() for file, _ in files)
            self.on_progress(done, total)
            with ThreadPoolExecutor(self.spark.defaultParallelism, thread_name_prefix="day") as pool:
                for rows in pool.map(self._project_day, days, days.values()):
                    done += rows
                    self.on_progress(done, total)

    def _count_copies(self, lacking: Mapping[date, Sequence[_LackingFile]]) -> dict[int, int]:
        """How many rows of the fit have the same bytes and label, where some of those that lack the version were."""
        last = self.meta.last_batch or 0
        if not self.meta.labels or all(min(b) > last for files in lacking.values() for _, b in files):
            return {}
        paths = [file.path for file in data_files(_open_tables(self.home)[FEATURE_ROWS])]
        tasks = self.spark.parallelize(paths, min(len(paths), 8 * self.spark.defaultParallelism))
        keys = tasks.flatMap(carry_errors(partial(_keys_of_file, self.home, self.meta, self.said, COPY_SHARES)))
        try:
            counted = keys.groupByKey(min(COPY_SHARES, self.spark.defaultParallelism)).flatMap(_counted_twice)
            return dict(counted.collect())
        except Py4JJavaError as error:
            raise JobFailed(f"Counting equal photos failed on every try: {last_words(error)}.") from error

    def _lacking_files(self) -> dict[date, list[_LackingFile]]:
        """The files with rows that lack the version, by day, the newest day first."""
        tables = _open_tables(self.home)
        # A batch is in `features` for a moment before its projections are: that one does not lack anything yet.
        last = tables.committed_to_all
        projected = self._projected_batches(tables[PROJECTION_ROWS]) | self.of_other_featurizers
        lacking: dict[date, list[_LackingFile]] = defaultdict(list)
        for file in data_files(tables[FEATURE_ROWS]):
            batches_of_day = self._batches(FEATURE_ROWS, file) - projected
            batches = frozenset(batch for _, batch in batches_of_day if batch <= last)
            if batches:
                lacking[file.partition["ingest_date"]].append((file, batches))
        return dict(sorted(lacking.items(), reverse=True))

    def _projected_batches(self, handle: DeltaTable | None) -> set[tuple[date, int]]:
        files = [file for file in data_files(handle) if file.partition["pca_version"] == self.meta.version]
        return {batch_of_day for file in files for batch_of_day in self._batches(PROJECTION_ROWS, file)}

    def _batches(self, table: Table, file: DataFile) -> set[tuple[date, int]]:
        """The day of a file with each batch that has rows in it."""
        is_one = file.batches is not None and file.batches[0] == file.batches[1]
        batches = file.batches if file.batches and is_one else _batches_in(self.home, table, file.path)
        return {(file.partition["ingest_date"], batch) for batch in batches}

    def _project_day(self, day: date, files: Sequence[_LackingFile]) -> int:
        """Project and commit what a day lacks; says how many rows its files have."""
        self.check()
        adds = self._write_projections(day, files)
        projected = {(day, batch) for _, batches in adds for batch in batches}
        with self.one_commit:
            self.of_other_featurizers |= {(day, batch) for _, batches in files for batch in batches} - projected
            if adds and self._commit([added for added, _ in adds], projected):
                self.rows += sum(added.rows for added, _ in adds)
                self.days += 1
        return sum(file.rows for file, _ in files)

    def _write_projections(self, day: date, files: Sequence[_LackingFile]) -> list[tuple[AddedFile, frozenset[int]]]:
        tasks = [
            _Task(
                self.home,
                self.meta,
                self.said,
                day,
                tuple((file.path, batches) for file, batches in group),
                self.copies,
                self.erasures,
            )
            for group in groups_by_size(files, lambda lacking: lacking[0].size_bytes, TASK_BYTES)
        ]
        try:
            return list(self.spark.parallelize(tasks, len(tasks)).mapPartitions(_project_tasks).collect())
        except Py4JJavaError as error:
            raise JobFailed(f"Projecting {day} failed on every try: {last_words(error)}.") from error

    def _commit(self, adds: Sequence[AddedFile], batches: set[tuple[date, int]]) -> bool:
        def is_committed(handle: DeltaTable) -> bool:
            # An erasure commits to this table once it began: either this sees it, or the commit is refused.
            check_no_erasure_started(self.home, self.erasures[0])
            return bool(batches & self._projected_batches(handle))

        self.check()
        metadata = {"fruits.pca_version": str(self.meta.version)}
        return append_once(self.home, PROJECTION_ROWS, SWITCHING, adds, metadata, is_committed)


@lru_cache(maxsize=10_000)
def _batches_in(home: Home, table: Table, path: str) -> frozenset[int]:
    parts = read_file(home, table, path, ["batch"])
    return frozenset(batch for part in parts for batch in pc.unique(part["batch"]).to_pylist())


def _open_tables(home: Home) -> TableHandles:
    tables = open_tables(home)
    for table in TABLES:
        if tables[table] is None:
            raise StateDamaged(f"{home.root.uri} has no table {table.name}; run `fruits stream` once.")
    return tables


def _wait_for_plans(
    home: Home, meta: PcaMeta, say: Callable[[str], None], patience_s: float, check: Callable[[], None]
) -> None:
    """Return when every plan that lacks the version is committed: its running tasks may not know the version."""
    waited_for: list[int] = []
    while batches := [
        plan.batch
        for plan in unsettled_plans(home, _open_tables(home))
        if plan.featurizer == meta.featurizer and meta.version not in plan.pca_versions
    ]:
        if batches != waited_for:
            # The wait begins again whenever the stream has committed a batch.
            waited_for, deadline_s = batches, time.monotonic() + patience_s
            say(f"Waiting for batch {batches[0]}, planned before version {meta.version}, to be committed …")
        if time.monotonic() > deadline_s:
            raise HomeInUse(
                f"Batch {batches[0]} was planned before version {meta.version} and is not committed yet; "
                "let `fruits stream` finish it, and run `fruits reproject` again."
            )
        check()
        time.sleep(POLL_INTERVAL_S)


@carry_errors
def _project_tasks(tasks: Iterable[_Task]) -> Iterator[tuple[AddedFile, frozenset[int]]]:
    for task in tasks:
        model = cached_model(task.home, task.meta.version, task.erasures)
        length = len(model.pca.mean)
        parts = [part for path, batches in task.files for part in _read_vectors(task, length, path, batches)]
        if parts:
            rows = pa.Table.from_batches([kept for kept, _ in parts])
            columns: dict[str, Any] = {name: rows[name].combine_chunks() for name in KEPT_COLUMNS}
            now = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
            columns["ingested_at"] = pa.repeat(now, rows.num_rows)
            vectors = np.concatenate([part for _, part in parts])
            projected = project_rows(model, vectors, _left_out(model, rows, task.said.value, task.copies))
            added = write_projections(task.home, columns, projected, task.ingest_date)
            yield added, frozenset(pc.unique(rows["batch"]).to_pylist())
    freeze_worker_modules()


def _said_before_fit(home: Home, meta: PcaMeta) -> SaidLabels:
    return said_labels(home, meta.labels_until).without_rows() if meta.labels_until else NOTHING_SAID


def _keys_of_file(
    home: Home, meta: PcaMeta, said: "Broadcast[SaidLabels]", shares: int, path: str
) -> list[tuple[int, NDArray[np.int64]]]:
    """The keys of the labelled rows of a file that were in the fit, cut into shares by their values."""
    keys: list[int] = []
    for part in read_file(home, FEATURE_ROWS, path, ["image_id", "label", "batch", "featurizer"]):
        labels = said.value.labels_of(part)
        is_in_fit = pc.and_(
            pc.and_(pc.less_equal(part["batch"], meta.last_batch), pc.equal(part["featurizer"], meta.featurizer)),
            pc.is_valid(labels),
        )
        keys += _keys_of_copies(part["image_id"].filter(is_in_fit).to_pylist(), labels.filter(is_in_fit).to_pylist())
    array = np.array(keys, np.int64)
    return [(share, array[array % shares == share]) for share in range(shares)]


def _counted_twice(share: tuple[int, Iterable[NDArray[np.int64]]]) -> list[tuple[int, int]]:
    keys, counts = np.unique(np.concatenate(list(share[1])), return_counts=True)
    return [(int(key), int(count)) for key, count in zip(keys, counts, strict=True) if count > 1]


def _keys_of_copies(image_ids: Sequence[str], labels: Sequence[str | None]) -> list[int]:
    # Eight bytes: of a billion photos some two would share a key, and be left out together.
    texts = (
        f"{label}\0{image_id}".encode("utf-8", "surrogatepass")
        for image_id, label in zip(image_ids, labels, strict=True)
    )
    return [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1 for text in texts]


def _left_out(model: PcaModel, rows: pa.Table, said: SaidLabels, copies: Mapping[int, int]) -> LeftOut | None:
    """Which rows were in the fit of the classifier, under a label that it names, and how many copies were."""
    meta, classifier = model.meta, model.classifier
    if classifier is None or meta.last_batch is None:
        return None
    labels = said.labels_of(rows).combine_chunks()
    places = pc.index_in(labels, value_set=pa.array(classifier.labels, pa.string()))
    in_fit = pc.less_equal(rows["batch"].combine_chunks(), meta.last_batch)
    places = pc.fill_null(pc.if_else(in_fit, places, -1), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = [copies.get(key, 1) for key in _keys_of_copies(rows["image_id"].to_pylist(), labels.to_pylist())]
    return LeftOut(places, np.array(numbers, np.int64))


def _read_vectors(
    task: _Task, length: int, path: str, batches: frozenset[int]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    narrow = read_file(task.home, FEATURE_ROWS, path, ["batch", "featurizer"])
    if not any(_mask(part, task, batches).true_count for part in narrow):
        return
    for part in read_file(task.home, FEATURE_ROWS, path, [*KEPT_COLUMNS, "features"]):
        rows = select_rows(part, _mask(part, task, batches))
        if rows.num_rows:
            vectors = vectors_of(task.home, length, task.ingest_date, path, rows)
            if not np.isfinite(vectors).all():
                raise StateDamaged(f"Features in {path} hold a NaN or an infinity. Delete those rows and their photos.")
            yield rows.select(list(KEPT_COLUMNS)), vectors


def _mask(part: pa.RecordBatch, task: _Task, batches: frozenset[int]) -> pa.BooleanArray:
    is_of_batches = pc.is_in(part["batch"], value_set=pa.array(sorted(batches), pa.int64()))
    return pc.and_(is_of_batches, pc.equal(part["featurizer"], task.meta.featurizer))
