"""How a home stands: its stream, what waits, how fast it goes, its models and tables, and whether its promises hold."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
from deltalake import DeltaTable

from batch.maintain.compaction import BIG_ENOUGH_BYTES, groups_to_compact
from ops.query.query import connect
from ops.status.queue_status import QueueStatus, look_at_queue
from ops.status.verification import broken_promises, count_of
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import Current, current_models, describe_model
from store.models.registry import current_featurizer, describe_featurizer
from store.objects.faults import reason, retry_storage
from store.objects.landing import LandedObject, list_pages
from store.objects.landing_files import PassedOver
from store.state.heartbeat import FinishedBatch, Heartbeat, Waiting, is_alive, read_heartbeat
from store.state.plans import Plan, planned_batches, read_plan, read_result
from store.tables.files import DataFile, data_files
from store.tables.handles import OpenTables, open_table
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, TABLES, Table
from streaming.discovery.arrivals import Backlog
from streaming.discovery.processed_index import ProcessedIndex, identity
from streaming.discovery.snapshot import load_processed_index
from streaming.discovery.visibility import first_seen, not_seen_at
from streaming.planner import only_new_since

# With a trigger of 2 s a table gets up to 1800 files an hour, which stay until the hour is over. Fewer than these are
# not worth asking which of them could be one.
MANY_SMALL_FILES = 500


@dataclass(frozen=True)
class TableStatus:
    """What one table holds; a file that maintenance would not leave for its size is small."""

    name: str
    rows: int
    files: int
    bytes: int
    last_batch: int
    small_files: int


@dataclass(frozen=True)
class LastBatch:
    """The newest batch that has an outcome, with its seconds by stage as far as they are known.

    Once its result is folded into a snapshot, a day later, its counts are not known either.
    """

    batch: int
    finished_at: datetime | None
    photos: int | None
    rejects: int | None
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class Switch:
    """The PCA version that is served, the next one, and how many committed batches still lack that one."""

    serving: int | None
    next: int | None
    lacking_batches: int


@dataclass(frozen=True)
class ModelStatus:
    """A PCA version that is served or comes next.

    `rows` are those it was fitted on; `rows_since` are in files that were committed after it was fitted.
    """

    version: int
    featurizer: str
    fitted_at: datetime
    components: int
    explained: float
    rows: int
    rows_since: int
    parent: int | None
    drift_rad: float | None


@dataclass(frozen=True)
class StreamStatus:
    """The newest stream: one that is silent was killed, or cannot reach storage.

    `moved_at` is when it last looked for photos or committed some, None when it never did or is of an earlier version.
    `error` is the kind of error that it ended with, if it did.
    """

    state: Literal["running", "stopped", "silent"]
    holder: str
    started_at: datetime
    last_sign_at: datetime
    moved_at: datetime | None = None
    trigger_s: float | None = None
    clean: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Pace:
    """How many photos a second a running stream commits, over so many seconds; None when that is not known."""

    photos_per_s: float | None
    window_s: float


@dataclass(frozen=True)
class Today:
    """What was committed of the plans of this day (UTC)."""

    ingest_date: date
    photos: int
    rejects: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Status:
    """Everything `fruits status` shows; `broken` is None when the invariants were not checked.

    `backlog` is what was planned and has no rows yet, and what was not planned: as the stream said at `backlog_as_of`,
    or as a listing found it. `passed_over` counts by kind what is left out of the landing on purpose; only a listing of
    this look has examples. `uncleared` photos have their rows and could not be cleared away, as the stream said.
    """

    home: str
    looked_at: datetime
    stream: StreamStatus | None
    last_batch: LastBatch | None
    unfinished_batches: list[int]
    backlog: Backlog
    backlog_as_of: datetime
    pace: Pace
    today: Today
    queue: QueueStatus | None
    featurizer: str | None
    weights: str | None
    pca: Switch
    models: list[ModelStatus]
    tables: list[TableStatus]
    compactable_files: int
    broken: list[str] | None
    passed_over: Mapping[str, int] = field(default_factory=dict)
    passed_over_examples: Mapping[str, str] = field(default_factory=dict)
    uncleared: int = 0


def look(
    home: Home, verify: bool, queue: str | None = None, count: bool = False, tables: OpenTables | None = None
) -> Status:
    """The home as it stands, read-only.

    A running stream is asked what waits; without one, to verify, and with `count`, the landing is listed and what was
    ever planned recalled. `queue` is the URL to ask about where no stream named one. `tables` spare who looks again
    and again reading their logs each time. Raises StateDamaged, StorageUnavailable.
    """
    looked_at = datetime.now(UTC)
    heartbeat = read_heartbeat(home)
    stream = _stream(heartbeat, looked_at)
    vitals = heartbeat.vitals if heartbeat else None
    views = {table.name: _view(home, tables or OpenTables(home), table) for table in TABLES}
    committed = min(view.last_batch for view in views.values())
    unfinished = planned_batches(home, after=committed)
    plans = [plan for plan in (read_plan(home, batch) for batch in unfinished) if plan is not None]

    is_running = stream is not None and stream.state == "running"
    told = vitals.waiting if vitals and is_running and not (verify or count) else None
    broken: list[str] | None = None
    passed_over = PassedOver()
    if told is not None:
        backlog = _as_told(told, plans)
        passed_over.counts.update(vitals.passed_over if vitals else {})
    else:
        with tempfile.TemporaryDirectory() as folder:
            seen = load_processed_index(home, Path(folder, "seen.sqlite"))
            backlog, facts, days = _counted(home, seen, plans, passed_over), seen.info, seen.days
            seen.close()
        if verify:
            kept = [batch for batch in planned_batches(home) if facts.snapshot < batch <= committed]
            broken = broken_promises(home, committed, kept, days, facts)

    table_statuses = [_table_status(name, view) for name, view in views.items()]
    featurizer = current_featurizer(home)
    current = current_models(home)
    url = (vitals.settings.queue if vitals else None) or queue
    pace = Pace(None, 0.0)
    if vitals and is_running and vitals.window_s:
        pace = Pace(vitals.photos / max(vitals.window_s, 1.0), vitals.window_s)
    return Status(
        home=home.root.uri,
        looked_at=looked_at,
        stream=stream,
        last_batch=_last_batch(home, committed, unfinished, vitals.last_batch if vitals else None),
        unfinished_batches=unfinished,
        backlog=backlog,
        backlog_as_of=told.told_at if told else looked_at,
        pace=pace,
        today=_today(views, looked_at.date()),
        queue=look_at_queue(url, home.landing.s3_region, vitals.messages if vitals and is_running else None)
        if url
        else None,
        featurizer=featurizer,
        weights=describe_featurizer(home, featurizer).source if featurizer else None,
        pca=_switch(home, current, committed),
        models=[_model_status(home, version, views[FEATURE_ROWS.name].files) for version in current.versions],
        tables=table_statuses,
        compactable_files=_compactable_files(home, table_statuses, looked_at),
        broken=broken,
        passed_over=dict(passed_over.counts),
        passed_over_examples=dict(passed_over.examples),
        uncleared=vitals.uncleared if vitals else 0,
    )


def _stream(heartbeat: Heartbeat | None, now: datetime) -> StreamStatus | None:
    if heartbeat is None:
        return None
    vitals = heartbeat.vitals
    moves: list[datetime] = []
    if vitals is not None:
        moves = [heartbeat.started_at]
        moves += [vitals.waiting.told_at] if vitals.waiting else []
        moves += [vitals.last_batch.finished_at] if vitals.last_batch else []
    return StreamStatus(
        state=_state(heartbeat, now),
        holder=heartbeat.holder,
        started_at=heartbeat.started_at,
        last_sign_at=heartbeat.beat_at,
        moved_at=max(moves, default=None),
        trigger_s=vitals.settings.trigger_s if vitals else None,
        clean=vitals.settings.clean if vitals else None,
        error=heartbeat.error,
    )


def _state(heartbeat: Heartbeat, now: datetime) -> Literal["running", "stopped", "silent"]:
    if heartbeat.ended_at is not None:
        return "stopped"
    return "running" if is_alive(heartbeat, now) else "silent"


@dataclass(frozen=True)
class _View:
    """A table as it stood at one moment; its handle is None when it was never created."""

    handle: DeltaTable | None
    files: list[DataFile]
    last_batch: int


def _view(home: Home, tables: OpenTables, table: Table) -> _View:
    def seen() -> _View:
        with tables.latest(table) as handle:
            return _View(handle, data_files(handle) if handle else [], tables.batch_of(table, handle))

    uri = home.root.child(table.name).uri
    try:
        return retry_storage(f"open the table {uri}", seen)
    except FileNotFoundError as error:
        raise StateDamaged(f"The table {uri} lacks a file of its log; restore it. {reason(error)}.") from error


def _table_status(name: str, view: _View) -> TableStatus:
    return TableStatus(
        name=name,
        rows=sum(file.rows for file in view.files),
        files=len(view.files),
        bytes=sum(file.size_bytes for file in view.files),
        last_batch=view.last_batch,
        small_files=sum(file.size_bytes < BIG_ENOUGH_BYTES for file in view.files),
    )


def _compactable_files(home: Home, tables: Iterable[TableStatus], now: datetime) -> int:
    if sum(table.small_files for table in tables) < MANY_SMALL_FILES:
        return 0
    return sum(len(group.files) for group in groups_to_compact(home, now))


def _today(views: Mapping[str, _View], today: date) -> Today:
    of_today = {
        name: sum(file.rows for file in view.files if file.partition["ingest_date"] == today)
        for name, view in views.items()
    }
    rejects, count = views[REJECT_ROWS.name].handle, of_today[REJECT_ROWS.name]
    reasons: Counter[str] = Counter()
    if rejects is not None and count:
        scanner = rejects.to_pyarrow_dataset().scanner(["reason"], filter=pc.field("ingest_date") == today)
        found = retry_storage(f"read {REJECT_ROWS.name}", scanner.to_table)
        reasons.update(found["reason"].to_pylist())
    return Today(today, of_today[FEATURE_ROWS.name], count, dict(reasons.most_common()))


def _model_status(home: Home, version: int, feature_files: Iterable[DataFile]) -> ModelStatus:
    meta = describe_model(home, version)
    return ModelStatus(
        version=version,
        featurizer=meta.featurizer,
        fitted_at=meta.fitted_at,
        components=meta.components,
        explained=meta.explained,
        rows=meta.rows,
        rows_since=sum(file.rows for file in feature_files if file.committed_at > meta.fitted_at),
        parent=meta.parent,
        drift_rad=meta.drift_rad,
    )


def _switch(home: Home, models: Current, committed: int) -> Switch:
    lacking = 0
    if models.next is not None and all(open_table(home, table) is not None for table in TABLES):
        lacking = count_of(connect(home), _lacking(home, models.next, committed))
    return Switch(models.serving, models.next, lacking)


def _lacking(home: Home, version: int, committed: int) -> str:
    featurizer = describe_model(home, version).featurizer
    return (
        f"SELECT DISTINCT batch FROM {FEATURE_ROWS.name} WHERE featurizer = '{featurizer}' AND batch <= {committed} "
        f"EXCEPT SELECT batch FROM {PROJECTION_ROWS.name} WHERE pca_version = {version}"
    )


def _last_batch(home: Home, committed: int, unfinished: list[int], told: FinishedBatch | None) -> LastBatch | None:
    for batch in (*reversed(unfinished), committed):
        result = read_result(home, batch) if batch else None
        if result is None:
            continue
        counters = result.counters
        tasks_s = {"fetch": counters.fetch_s, "decode": counters.decode_s}
        tasks_s |= {"infer": counters.infer_s, "write": counters.write_s}
        stages_s = told.stages_s if told and told.batch == batch else {"work": counters.wall_s} | tasks_s
        stages_s = {stage: round(seconds, 3) for stage, seconds in stages_s.items()}
        return LastBatch(batch, result.finished_at, counters.photos, sum(counters.rejects.values()), stages_s)
    return LastBatch(committed, None, None, None, {}) if committed else None


def _as_told(told: Waiting, plans: Iterable[Plan]) -> Backlog:
    # A plan that was made since then holds what the stream counted as waiting.
    planned = [plan.objects for plan in plans if plan.planned_at <= told.told_at]
    return _summed([Backlog(told.files, told.bytes, told.oldest_arrived_at, told.at_least), *map(_backlog_of, planned)])


def _counted(home: Home, seen: ProcessedIndex, plans: Iterable[Plan], passed_over: PassedOver) -> Backlog:
    planned = (plan.objects for plan in plans)
    return _summed(map(_backlog_of, (*planned, *_never_planned(home, seen, passed_over))))


def _backlog_of(some: Iterable[LandedObject]) -> Backlog:
    sizes_bytes = [landed.size_bytes for landed in some]
    return Backlog(len(sizes_bytes), sum(sizes_bytes), min((landed.visible_at for landed in some), default=None))


def _summed(parts: Iterable[Backlog]) -> Backlog:
    files = size_bytes = 0
    oldest: datetime | None = None
    at_least = False
    for part in parts:
        files += part.files
        size_bytes += part.bytes
        oldest = min(filter(None, (oldest, part.oldest_arrived_at)), default=None)
        at_least = at_least or part.at_least
    return Backlog(files, size_bytes, oldest, at_least)


def _never_planned(home: Home, seen: ProcessedIndex, passed_over: PassedOver) -> Iterator[list[LandedObject]]:
    since, bound = only_new_since(home), not_seen_at(home)
    for page in list_pages(home.landing, home.own_places, passed_over):
        known = seen.entries([identity(home.landing, landed) for landed in page])
        yield [
            first_seen(landed, bound)
            for landed in page
            if not ((what := known.get(identity(home.landing, landed))) and what.covers(landed))
            and (since is None or landed.visible_at >= since)
        ]
