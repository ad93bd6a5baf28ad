"""Give every feature row its projection in the next PCA version, then serve that version."""

import time
from collections import Counter, defaultdict
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
from batch.equal_photos import counted_twice, keys_of_copies, keys_of_file
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
from store.tables.photo_counts import check_has_all_photos
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

# A file of feature rows, and the batches in it of which rows lack the version.
_LackingFile = tuple[DataFile, frozenset[int]]
_BatchOfDay = tuple[date, int]


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
    became the next one, NetworkIncomplete when the next one is of a network that photos have no row of, JobFailed,
    StorageUnavailable.
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
        is_new_network = before.next is not None and before.featurizer != meta.featurizer
        if is_new_network:
            # Before hours of work: the same is found after it.
            check_has_all_photos(home, meta.featurizer, meta.version)

        def check() -> None:
            check_lease()
            check_no_other_switch(before, current_models(home))

        said = spark.broadcast(_said_before_fit(home, meta))
        try:
            backfill = _Backfill(spark, home, meta, said, on_progress, check, read_erasures(home).progress)
            backfill.run()
            _wait_for_plans(home, meta, is_new_network, say, patience_s, check_lease)
            backfill.run()
        finally:
            said.destroy()
        if is_new_network:
            check_has_all_photos(home, meta.featurizer, meta.version)
        if before.next is not None:
            finish_switch(home, before, meta.featurizer)
    return Reprojection(meta.version, backfill.rows, backfill.days)


@dataclass(frozen=True)
class _Task:
    """What one task reads and projects: files of one day, and in each the batches to take rows from.

    `said` had been said of photos before the fit; `copies` says how many rows of the fit have the same bytes and
    label, where it is more than one. `projected` are files of projections that hold a part of these batches.
    """

    home: Home
    meta: PcaMeta
    said: "Broadcast[SaidLabels]"
    ingest_date: date
    files: tuple[tuple[str, frozenset[int]], ...]
    projected: tuple[str, ...]
    copies: Mapping[int, int]
    erasures: tuple[int, int]


@dataclass
class _Backfill:
    """Projects what lacks a version; batches `of_other_featurizers` lack nothing, `erasures` had come so far.

    `projected` is how many rows of each batch had the version at the last look, and `projected_files` where they are.
    """

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
    of_other_featurizers: set[_BatchOfDay] = field(default_factory=set)
    projected: Mapping[_BatchOfDay, int] = field(default_factory=dict)
    projected_files: Mapping[_BatchOfDay, Sequence[str]] = field(default_factory=dict)
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
        files = data_files(_open_tables(self.home)[FEATURE_ROWS])
        paths = [file.path for file in files if file.may_hold(self.meta.featurizer)]
        tasks = self.spark.parallelize(paths, min(len(paths), 8 * self.spark.defaultParallelism))
        keys = tasks.flatMap(carry_errors(partial(keys_of_file, self.home, self.meta, self.said, COPY_SHARES)))
        try:
            counted = keys.groupByKey(min(COPY_SHARES, self.spark.defaultParallelism)).flatMap(counted_twice)
            return dict(counted.collect())
        except Py4JJavaError as error:
            raise JobFailed(f"Counting equal photos failed on every try: {last_words(error)}.") from error

    def _lacking_files(self) -> dict[date, list[_LackingFile]]:
        """The files with rows that lack the version, by day, the newest day first."""
        tables = _open_tables(self.home)
        # A batch is in `features` for a moment before its projections are: that one does not lack anything yet.
        last = tables.committed_to_all
        self.projected, self.projected_files = self._look_at_projections(tables[PROJECTION_ROWS])
        files = [file for file in data_files(tables[FEATURE_ROWS]) if file.may_hold(self.meta.featurizer)]
        of_files = [(file, self._rows_by_batch(FEATURE_ROWS, file)) for file in files]
        rows: Counter[_BatchOfDay] = Counter()
        for _, of_file in of_files:
            rows.update(of_file)
        lacks = {
            batch for batch, count in rows.items() if batch[1] <= last and count > self.projected.get(batch, 0)
        } - self.of_other_featurizers
        lacking: dict[date, list[_LackingFile]] = defaultdict(list)
        for file, of_file in of_files:
            if batches := frozenset(batch for _, batch in lacks & of_file.keys()):
                lacking[file.partition["ingest_date"]].append((file, batches))
        return dict(sorted(lacking.items(), reverse=True))

    def _look_at_projections(
        self, handle: DeltaTable | None
    ) -> tuple[dict[_BatchOfDay, int], dict[_BatchOfDay, list[str]]]:
        """How many projections of the version each batch has, and in which files."""
        rows: Counter[_BatchOfDay] = Counter()
        files: dict[_BatchOfDay, list[str]] = defaultdict(list)
        for file in data_files(handle):
            if file.partition["pca_version"] == self.meta.version:
                of_file = self._rows_by_batch(PROJECTION_ROWS, file)
                rows.update(of_file)
                for batch in of_file:
                    files[batch].append(file.path)
        return rows, files

    def _rows_by_batch(self, table: Table, file: DataFile) -> dict[_BatchOfDay, int]:
        """How many rows that concern the version a file has of each batch of its day."""
        if file.batches is not None and file.batches[0] == file.batches[1]:
            # The rows of a batch in one file are of one network.
            return {(file.partition["ingest_date"], file.batches[0]): file.rows}
        counts = _rows_in(self.home, table, file.path, self.meta.featurizer if table is FEATURE_ROWS else None)
        return {(file.partition["ingest_date"], batch): count for batch, count in counts.items()}

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
                self._files_with_a_part(day, frozenset().union(*(batches for _, batches in group))),
                self.copies,
                self.erasures,
            )
            for group in groups_by_size(files, lambda lacking: lacking[0].size_bytes, TASK_BYTES)
        ]
        try:
            return list(self.spark.parallelize(tasks, len(tasks)).mapPartitions(_project_tasks).collect())
        except Py4JJavaError as error:
            raise JobFailed(f"Projecting {day} failed on every try: {last_words(error)}.") from error

    def _files_with_a_part(self, day: date, batches: frozenset[int]) -> tuple[str, ...]:
        # Photos that were looked for in vain at first get their features later than the rest of their batch.
        return tuple(sorted({path for batch in batches for path in self.projected_files.get((day, batch), ())}))

    def _commit(self, adds: Sequence[AddedFile], batches: set[_BatchOfDay]) -> bool:
        def is_committed(handle: DeltaTable) -> bool:
            # An erasure commits to this table once it began: either this sees it, or the commit is refused.
            check_no_erasure_started(self.home, self.erasures[0])
            now, _ = self._look_at_projections(handle)
            return any(now.get(batch, 0) != self.projected.get(batch, 0) for batch in batches)

        self.check()
        metadata = {"fruits.pca_version": str(self.meta.version)}
        return append_once(self.home, PROJECTION_ROWS, SWITCHING, adds, metadata, is_committed)


@lru_cache(maxsize=10_000)
def _rows_in(home: Home, table: Table, path: str, featurizer: str | None) -> Mapping[int, int]:
    """How many rows of each batch a file has; of features, only those of a featurizer."""
    rows: Counter[int] = Counter()
    for part in read_file(home, table, path, ["batch", "featurizer"]):
        own = part if featurizer is None else part.filter(pc.equal(part["featurizer"], featurizer))
        rows.update(own["batch"].to_pylist())
    return rows


def _open_tables(home: Home) -> TableHandles:
    tables = open_tables(home)
    for table in TABLES:
        if tables[table] is None:
            raise StateDamaged(f"{home.root.uri} has no table {table.name}; run `fruits stream` once.")
    return tables


def _wait_for_plans(
    home: Home,
    meta: PcaMeta,
    is_new_network: bool,
    say: Callable[[str], None],
    patience_s: float,
    check: Callable[[], None],
) -> None:
    """Return when every plan that lacks the version is committed: its running tasks may not know the version."""
    waited_for: list[int] = []
    # What is planned from now on without the network, a stream of a former release plans.
    before_network = {plan.batch for plan in unsettled_plans(home, _open_tables(home))} if is_new_network else set()
    while batches := [
        plan.batch
        for plan in unsettled_plans(home, _open_tables(home))
        if (
            meta.version not in plan.pca_versions
            if meta.featurizer in plan.featurizers
            else plan.batch in before_network
        )
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
        done = _projected_sources(task)
        parts = [part for path, batches in task.files for part in _read_vectors(task, length, path, batches, done)]
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


def _left_out(model: PcaModel, rows: pa.Table, said: SaidLabels, copies: Mapping[int, int]) -> LeftOut | None:
    """Which rows were in the fit of the classifier, under a label that it names, and how many copies were."""
    meta, classifier = model.meta, model.classifier
    if classifier is None or meta.last_batch is None:
        return None
    labels = said.labels_of(rows).combine_chunks()
    places = pc.index_in(labels, value_set=pa.array(classifier.labels, pa.string()))
    in_fit = pc.less_equal(rows["batch"].combine_chunks(), meta.last_batch)
    places = pc.fill_null(pc.if_else(in_fit, places, -1), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = [copies.get(key, 1) for key in keys_of_copies(rows["image_id"].to_pylist(), labels.to_pylist())]
    return LeftOut(places, np.array(numbers, np.int64))


def _projected_sources(task: _Task) -> dict[int, set[str]]:
    """The sources of the rows that have the version already, by batch."""
    sources: dict[int, set[str]] = defaultdict(set)
    for path in task.projected:
        for part in read_file(task.home, PROJECTION_ROWS, path, ["batch", "source"]):
            for batch, source in zip(part["batch"].to_pylist(), part["source"].to_pylist(), strict=True):
                sources[batch].add(source)
    return sources


def _read_vectors(
    task: _Task, length: int, path: str, batches: frozenset[int], done: Mapping[int, set[str]]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    narrow = read_file(task.home, FEATURE_ROWS, path, ["batch", "featurizer"])
    if not any(_mask(part, task, batches).true_count for part in narrow):
        return
    for part in read_file(task.home, FEATURE_ROWS, path, [*KEPT_COLUMNS, "features"]):
        rows = select_rows(part, _mask(part, task, batches))
        if done:
            lacks = [
                source not in done.get(batch, ())
                for batch, source in zip(rows["batch"].to_pylist(), rows["source"].to_pylist(), strict=True)
            ]
            rows = select_rows(rows, pa.array(lacks, pa.bool_()))
        if rows.num_rows:
            vectors = vectors_of(task.home, length, task.ingest_date, path, rows)
            if not np.isfinite(vectors).all():
                raise StateDamaged(f"Features in {path} hold a NaN or an infinity. Delete those rows and their photos.")
            yield rows.select(list(KEPT_COLUMNS)), vectors


def _mask(part: pa.RecordBatch, task: _Task, batches: frozenset[int]) -> pa.BooleanArray:
    is_of_batches = pc.is_in(part["batch"], value_set=pa.array(sorted(batches), pa.int64()))
    return pc.and_(is_of_batches, pc.equal(part["featurizer"], task.meta.featurizer))
