"""Give every feature row its projection in the next PCA version, then serve that version."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from numpy.typing import NDArray
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from batch.days import chosen, vectors_of
from features.pca import project
from features.task_errors import carry_errors, last_words
from features.worker_process import freeze_worker_modules
from store.errors import HomeInUse, JobFailed, StateDamaged
from store.home import Home
from store.models.pca_models import (
    Current,
    PcaMeta,
    cached_model,
    check_no_other_switch,
    current_models,
    describe_model,
    finish_switch,
)
from store.state.erasures import check_no_erasure_started, read_erasures
from store.state.lease import hold_lease
from store.state.plans import AddedFile, planned_batches, read_plan
from store.tables.commits import append_once
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import committed_batch, open_table
from store.tables.projections import KEPT_COLUMNS, SWITCHING, write_projections
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, TABLES, Table

TASK_BYTES = 64 * 2**20
# How long a batch that was planned without the version may take to be committed.
PATIENCE_S = 120.0
LOOK_S = 1.0


@dataclass(frozen=True)
class Reprojection:
    """What was done until `version` was served; rows that the stream projected itself are not counted."""

    version: int
    rows: int
    days: int


@dataclass(frozen=True)
class Watcher:
    """Who follows the work: told of waits in words, and of rows done and to do."""

    say: Callable[[str], None]
    on_progress: Callable[[int, int], None]


def reproject(spark: SparkContext, home: Home, watcher: Watcher, patience_s: float = PATIENCE_S) -> Reprojection | None:
    """Append what lacks the next version, day by day, and serve it when nothing lacks it; None without any version.

    Without a next version, what lacks the served one is appended: nothing does, unless state was lost or rows were
    deleted by hand. Each day is one transaction. Killed at any point, a replay does the days that are left; run twice
    at once, the second one is refused. Photos may arrive meanwhile: the stream projects them with both versions.
    Raises HomeInUse, AnotherRefit when another version became the next one, JobFailed, StorageUnavailable.
    """
    if not current_models(home).versions:
        return None
    with hold_lease(home, "fruits reproject", watcher.say) as check:
        # From here on, what a paused `prune` decided by an older look at the table is refused.
        append_once(home, PROJECTION_ROWS, SWITCHING, (), {}, lambda _: False)
        begun = current_models(home)
        version = begun.versions[-1]
        filling = _Filling(spark, home, describe_model(home, version), begun, watcher, check)
        filling.fill()
        _wait_for_plans(home, filling.meta, watcher, patience_s, check)
        filling.fill()
        if begun.next is not None:
            finish_switch(home, begun)
    return Reprojection(version, filling.rows, filling.days)


@dataclass(frozen=True)
class _Day:
    """What a day has to gain: files, and in each the batches to take rows from."""

    ingest_date: date
    files: tuple[tuple[DataFile, frozenset[int]], ...]

    @property
    def pairs(self) -> frozenset[tuple[date, int]]:
        return frozenset((self.ingest_date, batch) for _, batches in self.files for batch in batches)


@dataclass(frozen=True)
class _Share:
    """What one task reads and projects: files of one day."""

    home: Home
    meta: PcaMeta
    ingest_date: date
    files: tuple[tuple[str, frozenset[int]], ...]


class _Filling:
    """Brings the projections of one version up to what the features hold."""

    def __init__(
        self,
        spark: SparkContext,
        home: Home,
        meta: PcaMeta,
        begun: Current,
        watcher: Watcher,
        check: Callable[[], None],
    ) -> None:
        self.meta = meta
        self.rows = 0
        self.days = 0
        self._spark = spark
        self._home = home
        self._begun = begun
        self._watcher = watcher
        self._check = check
        self._counting = Lock()
        self._others: set[tuple[date, int]] = set()
        self._known_batches: dict[str, frozenset[int]] = {}
        self._erasures = read_erasures(home).begun

    def fill(self) -> None:
        """Repeat until no committed batch lacks the version: others are committed while this one works."""
        while days := self._lacking():
            done, total = 0, sum(file.rows for day in days for file, _ in day.files)
            self._watcher.on_progress(done, total)
            with ThreadPoolExecutor(self._spark.defaultParallelism, thread_name_prefix="day") as pool:
                for day in pool.map(self._fill_day, days):
                    done += sum(file.rows for file, _ in day.files)
                    self._watcher.on_progress(done, total)

    def _lacking(self) -> list[_Day]:
        handles = {table.name: _opened(self._home, table) for table in reversed(TABLES)}
        # A batch is in `features` for a moment before its projections are: that one does not lack anything yet.
        last = min(map(committed_batch, handles.values()))
        projections = [
            file
            for file in data_files(handles[PROJECTION_ROWS.name])
            if file.partition["pca_version"] == self.meta.version
        ]
        projected = {pair for file in projections for pair in self._pairs(PROJECTION_ROWS, file)}
        lacking: dict[date, list[tuple[DataFile, frozenset[int]]]] = {}
        for file in data_files(handles[FEATURE_ROWS.name]):
            pairs = self._pairs(FEATURE_ROWS, file) - projected - self._others
            batches = frozenset(batch for _, batch in pairs if batch <= last)
            if batches:
                lacking.setdefault(file.partition["ingest_date"], []).append((file, batches))
        return [_Day(day, tuple(files)) for day, files in sorted(lacking.items(), reverse=True)]

    def _pairs(self, table: Table, file: DataFile) -> set[tuple[date, int]]:
        if file.batches is not None and file.batches[0] == file.batches[1]:
            batches = frozenset({file.batches[0]})
        else:
            key = f"{table.name}/{file.path}"
            if key not in self._known_batches:
                columns = read_file(self._home, table, file.path, ["batch"])
                self._known_batches[key] = frozenset(
                    batch for part in columns for batch in pc.unique(part["batch"]).to_pylist()
                )
            batches = self._known_batches[key]
        return {(file.partition["ingest_date"], batch) for batch in batches}

    def _fill_day(self, day: _Day) -> _Day:
        self._refuse_to_go_on()
        adds = self._projected(day)
        rows = sum(added.rows for added, _ in adds)
        pairs = {(day.ingest_date, batch) for _, batches in adds for batch in batches}
        with self._counting:
            # What has no row of this featurizer lacks nothing.
            self._others |= day.pairs - pairs
            if rows and self._commit([added for added, _ in adds], pairs):
                self.rows += rows
                self.days += 1
        return day

    def _refuse_to_go_on(self) -> None:
        self._check()
        check_no_other_switch(self._begun, current_models(self._home))

    def _projected(self, day: _Day) -> list[tuple[AddedFile, frozenset[int]]]:
        shares = [_Share(self._home, self.meta, day.ingest_date, files) for files in _cut(day.files)]
        try:
            return list(self._spark.parallelize(shares, len(shares)).mapPartitions(_project_shares).collect())
        except Py4JJavaError as error:
            raise JobFailed(f"Projecting {day.ingest_date} failed on every try: {last_words(error)}.") from error

    def _commit(self, adds: Sequence[AddedFile], pairs: set[tuple[date, int]]) -> bool:
        def there_already(handle: DeltaTable) -> bool:
            # An erasure commits to this table once it began: either this sees it, or the commit is refused.
            check_no_erasure_started(self._home, self._erasures)
            files = [file for file in data_files(handle) if file.partition["pca_version"] == self.meta.version]
            return any(pairs & self._pairs(PROJECTION_ROWS, file) for file in files)

        self._refuse_to_go_on()
        metadata = {"fruits.pca_version": str(self.meta.version)}
        return append_once(self._home, PROJECTION_ROWS, SWITCHING, adds, metadata, there_already)


def _opened(home: Home, table: Table) -> DeltaTable:
    handle = open_table(home, table)
    if handle is None:
        raise StateDamaged(f"{home.root.uri} has no table {table.name}; run `fruits stream` once.")
    return handle


def _wait_for_plans(home: Home, meta: PcaMeta, watcher: Watcher, patience_s: float, check: Callable[[], None]) -> None:
    """Return when every plan that lacks the version is committed: its running tasks may not know the version."""
    waited_for: list[int] = []
    while batches := _planned_without(home, meta):
        if batches != waited_for:
            # As long as the stream gets on, it is waited for.
            waited_for, deadline_s = batches, time.monotonic() + patience_s
            watcher.say(f"Waiting for batch {batches[0]}, planned before version {meta.version}, to be committed …")
        if time.monotonic() > deadline_s:
            raise HomeInUse(
                f"Batch {batches[0]} was planned before version {meta.version} and is not committed yet; "
                "let `fruits stream` finish it, and run `fruits reproject` again."
            )
        check()
        time.sleep(LOOK_S)


def _planned_without(home: Home, meta: PcaMeta) -> list[int]:
    committed = min(committed_batch(_opened(home, table)) for table in TABLES)
    plans = (read_plan(home, batch) for batch in planned_batches(home, after=committed))
    return [
        plan.batch
        for plan in plans
        if plan is not None and plan.featurizer == meta.featurizer and meta.version not in plan.pca_versions
    ]


def _cut(files: Iterable[tuple[DataFile, frozenset[int]]]) -> Iterator[tuple[tuple[str, frozenset[int]], ...]]:
    share: list[tuple[str, frozenset[int]]] = []
    share_bytes = 0
    for file, batches in files:
        if share and share_bytes + file.size_bytes > TASK_BYTES:
            yield tuple(share)
            share, share_bytes = [], 0
        share.append((file.path, batches))
        share_bytes += file.size_bytes
    if share:
        yield tuple(share)


@carry_errors
def _project_shares(shares: Iterable[_Share]) -> Iterator[tuple[AddedFile, frozenset[int]]]:
    for share in shares:
        parts = [part for path, batches in share.files for part in _projected_parts(share, path, batches)]
        if parts:
            rows = pa.Table.from_batches([kept for kept, _ in parts])
            columns: dict[str, Any] = {name: rows[name].combine_chunks() for name in KEPT_COLUMNS}
            columns["ingested_at"] = pa.repeat(
                pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), rows.num_rows
            )
            projected = np.concatenate([projected for _, projected in parts])
            added = write_projections(share.home, share.meta, columns, projected, share.ingest_date)
            yield added, frozenset(pc.unique(rows["batch"]).to_pylist())
    freeze_worker_modules()


def _projected_parts(
    share: _Share, path: str, batches: frozenset[int]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    model = cached_model(share.home, share.meta.version)
    if not any(_wanted(part, share, batches).true_count for part in _columns(share, path, ["batch", "featurizer"])):
        return
    for part in _columns(share, path, [*KEPT_COLUMNS, "features"]):
        rows = chosen(part, _wanted(part, share, batches))
        if rows.num_rows:
            vectors = vectors_of(share.home, share.ingest_date, path, rows)
            projected = project(model.pca.mean, model.pca.components, vectors)
            if not np.isfinite(projected).all():
                raise StateDamaged(f"Features in {path} hold a NaN or an infinity. Delete those rows and their photos.")
            yield rows.select(list(KEPT_COLUMNS)), projected


def _columns(share: _Share, path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return read_file(share.home, FEATURE_ROWS, path, columns)


def _wanted(part: pa.RecordBatch, share: _Share, batches: frozenset[int]) -> pa.BooleanArray:
    of_batch = pc.is_in(part["batch"], value_set=pa.array(sorted(batches), pa.int64()))
    return pc.and_(of_batch, pc.equal(part["featurizer"], share.meta.featurizer))
