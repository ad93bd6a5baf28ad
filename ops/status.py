"""How a home stands: its last batch, what waits, its tables, and whether its promises hold."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa

from features.heartbeat import Heartbeat, is_alive, read_heartbeat
from features.home import Home
from features.landing import Landed, came_at, list_pages
from features.pca_models import current_models, describe_model
from features.plan import planned_batches, read_plan, read_result
from features.registry import current_featurizer
from features.tables import FEATURE_ROWS, PROJECTION_ROWS, TABLES, Table, committed_batch, open_table
from ops.query import connect
from ops.verification import broken_promises, count_of
from streaming.arrivals import Backlog
from streaming.seen import Seen, identity
from streaming.snapshot import recall
from streaming.source import only_new_since


@dataclass(frozen=True)
class TableStatus:
    """What one table holds."""

    name: str
    rows: int
    files: int
    bytes: int
    last_batch: int


@dataclass(frozen=True)
class LastBatch:
    """The newest batch that has a result."""

    batch: int
    finished_at: datetime
    photos: int
    rejects: int


@dataclass(frozen=True)
class Switch:
    """The PCA version that is served, the next one, and how many committed batches still lack that one."""

    serving: int | None
    next: int | None
    lacking_batches: int


@dataclass(frozen=True)
class StreamStatus:
    """The newest stream: one that is silent was killed, or cannot reach storage."""

    state: Literal["running", "stopped", "silent"]
    holder: str
    started_at: datetime
    last_sign_at: datetime


@dataclass(frozen=True)
class Status:
    """Everything `fruits status` shows; `broken` is None when the invariants were not checked."""

    home: str
    featurizer: str | None
    stream: StreamStatus | None
    pca: Switch
    last_batch: LastBatch | None
    unfinished_batches: list[int]
    backlog: Backlog
    tables: list[TableStatus]
    broken: list[str] | None


def look(home: Home, verify: bool) -> Status:
    """The home as it stands, read-only. Raises StorageUnavailable."""
    tables = [_table_status(home, table) for table in TABLES]
    committed = min(table.last_batch for table in tables)
    planned = planned_batches(home)
    unfinished = [batch for batch in planned if batch > committed]
    with tempfile.TemporaryDirectory() as folder:
        seen = recall(home, Path(folder, "seen.sqlite"))
        backlog, facts, days = _backlog(home, seen, unfinished), seen.facts, seen.days
        seen.close()
    kept = [batch for batch in planned if facts.snapshot < batch <= committed]
    return Status(
        home=home.root.uri,
        featurizer=current_featurizer(home),
        stream=_stream(home),
        pca=_switch(home, committed),
        last_batch=_last_batch(home, planned),
        unfinished_batches=unfinished,
        backlog=backlog,
        tables=tables,
        broken=broken_promises(home, committed, kept, days, facts) if verify else None,
    )


def _table_status(home: Home, table: Table) -> TableStatus:
    handle = open_table(home, table)
    if handle is None:
        return TableStatus(table.name, 0, 0, 0, 0)
    files = pa.table(handle.get_add_actions(flatten=True)).select(["num_records", "size_bytes"]).to_pylist()
    rows = sum(file["num_records"] for file in files)
    return TableStatus(table.name, rows, len(files), sum(file["size_bytes"] for file in files), committed_batch(handle))


def _stream(home: Home) -> StreamStatus | None:
    heartbeat = read_heartbeat(home)
    if heartbeat is None:
        return None
    return StreamStatus(_state(heartbeat), heartbeat.holder, heartbeat.started_at, heartbeat.beat_at)


def _state(heartbeat: Heartbeat) -> Literal["running", "stopped", "silent"]:
    if heartbeat.ended_at is not None:
        return "stopped"
    return "running" if is_alive(heartbeat, datetime.now(UTC)) else "silent"


def _switch(home: Home, committed: int) -> Switch:
    models = current_models(home)
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


def _last_batch(home: Home, planned: Iterable[int]) -> LastBatch | None:
    for batch in sorted(planned, reverse=True):
        result = read_result(home, batch)
        if result is not None:
            return LastBatch(batch, result.finished_at, result.counters.photos, sum(result.counters.rejects.values()))
    return None


def _backlog(home: Home, seen: Seen, unfinished: list[int]) -> Backlog:
    files = size_bytes = 0
    oldest: datetime | None = None
    plans = (read_plan(home, batch) for batch in unfinished)
    for some in (*(plan.objects for plan in plans if plan), *_never_planned(home, seen)):
        files += len(some)
        size_bytes += sum(landed.size_bytes for landed in some)
        oldest = min(filter(None, (oldest, *(landed.arrived_at for landed in some))), default=None)
    return Backlog(files, size_bytes, oldest)


def _never_planned(home: Home, seen: Seen) -> Iterator[list[Landed]]:
    since = only_new_since(home)
    for page in list_pages(home.landing):
        known = seen.known([identity(home.landing, landed) for landed in page])
        yield [
            landed
            for landed in page
            if not ((what := known.get(identity(home.landing, landed))) and what.covers(landed))
            and (since is None or came_at(home.landing, landed) >= since)
        ]
