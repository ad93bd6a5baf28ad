"""How a home stands: its last batch, what waits, its tables, and whether its promises hold."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from features.expired import expired_before
from features.heartbeat import Heartbeat, is_alive, read_heartbeat
from features.home import Home
from features.landing import Landed, came_at, list_pages
from features.pca_models import Current, current_models, describe_model
from features.plan import Result, planned_batches, read_plan, read_result
from features.registry import current_featurizer
from features.tables import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, TABLES, Table, committed_batch, open_table
from ops.query import CURRENT_PROJECTIONS, connect, connect_to, take_snapshot
from streaming.arrivals import Backlog
from streaming.seen import Day, Facts, Seen, identity
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
        broken=_broken(home, committed, kept, _days(days, facts)) if verify else None,
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
        lacking = _count(connect(home), _lacking(home, models.next, committed))
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


def _broken(home: Home, last: int, committed: list[int], days: pa.Table) -> list[str]:
    if any(open_table(home, table) is None for table in TABLES):
        return []
    since = expired_before(home)
    if since != date.min:
        plans = ((batch, read_plan(home, batch)) for batch in committed)
        committed = [batch for batch, plan in plans if plan is not None and plan.ingest_date >= since]
    planned, results = _planned_objects(home, committed), [read_result(home, batch) for batch in committed]
    snapshot = take_snapshot(home)
    connection = connect_to(snapshot)
    for name, handle in snapshot.tables.items() if since != date.min else ():
        # The tables lose the rows of expired days one after the other.
        connection.register(name, handle.to_pyarrow_dataset().filter(pc.field("ingest_date") >= since))
    connection.register("planned", planned)
    connection.register("days", days.filter(pc.field("ingest_date") >= since))
    connection.register("counted", _counted([result for result in results if result is not None]))
    connection.register("models", _models(home, snapshot.models, last))
    # What a snapshot covers is deleted, and that may have been just now.
    missing_results = [
        batch
        for batch, result in zip(committed, results, strict=True)
        if result is None and read_plan(home, batch) is not None and read_result(home, batch) is None
    ]
    findings = [f"Batch {batch} is committed but has no result." for batch in missing_results]
    for sql, sentence in _CHECKS:
        count = _count(connection, sql)
        if count:
            findings.append(sentence.format(count=count))
    return findings


def _planned_objects(home: Home, batches: Iterable[int]) -> pa.Table:
    columns: dict[str, list[object]] = {"batch": [], "source": [], "etag": []}
    for batch in batches:
        plan = read_plan(home, batch)
        if plan is None:
            continue
        landing = home.landing_at(plan.landing)
        columns["batch"] += [batch] * len(plan.objects)
        columns["source"] += [landing.uri_of(landed.key) for landed in plan.objects]
        columns["etag"] += [landed.etag for landed in plan.objects]
    schema = pa.schema([("batch", pa.int64()), ("source", pa.string()), ("etag", pa.string())])
    return pa.table(columns, schema=schema)


def _models(home: Home, models: Current, last: int) -> pa.Table:
    """One row for the served model: its featurizer's batches, up to the last committed one, must have it."""
    served = [] if models.serving is None else [describe_model(home, models.serving)]
    rows = [{"pca_version": meta.version, "featurizer": meta.featurizer, "last": last} for meta in served]
    schema = pa.schema([("pca_version", pa.int32()), ("featurizer", pa.string()), ("last", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def _days(days: Iterable[Day], facts: Facts) -> pa.Table:
    """What the batches of each day should hold, as far back as that is known."""
    rows = [
        {"ingest_date": day.ingest_date, "photos": day.photos, "rejects": day.rejects}
        | {"after": facts.days_since, "through": facts.through}
        for day in days
    ]
    numbers = [(name, pa.int64()) for name in ("photos", "rejects", "after", "through")]
    return pa.Table.from_pylist(rows, schema=pa.schema([("ingest_date", pa.date32()), *numbers]))


def _counted(results: Iterable[Result]) -> pa.Table:
    rows = [
        {"batch": r.batch, "photos": r.counters.photos, "rejects": sum(r.counters.rejects.values())} for r in results
    ]
    schema = pa.schema([("batch", pa.int64()), ("photos", pa.int64()), ("rejects", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def _count(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()
    return int(found[0]) if found else 0


_OUTCOMES = f"""
    SELECT batch, source, etag FROM {FEATURE_ROWS.name} UNION ALL SELECT batch, source, etag FROM {REJECT_ROWS.name}
"""
_CHECKS = (
    (
        f"SELECT * FROM planned ANTI JOIN ({_OUTCOMES}) USING (batch, source, etag)",
        "{count} planned objects have no row in features or rejects: lost.",
    ),
    (
        f"SELECT batch, source, etag FROM ({_OUTCOMES}) GROUP BY ALL HAVING count(*) > 1",
        "{count} objects have more than one row for one arrival: doubled.",
    ),
    (
        f"SELECT source, etag FROM {FEATURE_ROWS.name} GROUP BY source, etag "
        "HAVING count(DISTINCT batch) > 1 AND max(arrived_at) - min(arrived_at) < INTERVAL 14 DAY",
        "{count} versions of photos have feature rows of more than one batch: doubled.",
    ),
    (
        f"SELECT * FROM ({_OUTCOMES}) SEMI JOIN (SELECT DISTINCT batch FROM planned) USING (batch) "
        "ANTI JOIN planned USING (batch, source, etag)",
        "{count} rows belong to no object of their batch's plan.",
    ),
    (
        f"SELECT batch FROM counted WHERE photos <> (SELECT count(*) FROM {FEATURE_ROWS.name} f "
        "WHERE f.batch = counted.batch) OR rejects <> (SELECT count(*) FROM "
        f"{REJECT_ROWS.name} r WHERE r.batch = counted.batch)",
        "{count} batches hold other numbers of rows than their results counted.",
    ),
    (
        f"SELECT ingest_date FROM days WHERE photos <> (SELECT count(*) FROM {FEATURE_ROWS.name} f "
        "WHERE f.ingest_date = days.ingest_date AND f.batch > days.after AND f.batch <= days.through) "
        f"OR rejects <> (SELECT count(*) FROM {REJECT_ROWS.name} r "
        "WHERE r.ingest_date = days.ingest_date AND r.batch > days.after AND r.batch <= days.through)",
        "{count} days hold other numbers of rows than their batches counted.",
    ),
    (
        f"SELECT image_id FROM {FEATURE_ROWS.name} WHERE len(features) <> 1280 "
        "OR len(list_filter(features, lambda x: NOT isfinite(x))) > 0",
        "{count} feature rows are not 1280 finite numbers.",
    ),
    (
        f"SELECT f.batch, f.source FROM {FEATURE_ROWS.name} f JOIN models m USING (featurizer) WHERE f.batch <= m.last "
        f"EXCEPT SELECT batch, source FROM {CURRENT_PROJECTIONS}",
        "{count} feature rows have no projection in the served PCA version.",
    ),
    (
        f"SELECT pca_version, batch, source FROM {PROJECTION_ROWS.name} GROUP BY ALL HAVING count(*) > 1",
        "{count} photos have more than one projection in one PCA version: doubled.",
    ),
    (
        f"SELECT * FROM (SELECT pca_version, batch, count(*) AS n FROM {PROJECTION_ROWS.name} GROUP BY ALL) p "
        f"LEFT JOIN (SELECT batch, count(*) AS n FROM {FEATURE_ROWS.name} GROUP BY ALL) f USING (batch) "
        "WHERE p.n IS DISTINCT FROM f.n",
        "{count} times a batch and a PCA version have other numbers of projections than of photos.",
    ),
    (
        f"SELECT batch, source, image_id, featurizer FROM {PROJECTION_ROWS.name} "
        f"EXCEPT SELECT batch, source, image_id, featurizer FROM {FEATURE_ROWS.name}",
        "{count} projections belong to no feature row.",
    ),
    (
        f"SELECT image_id FROM {PROJECTION_ROWS.name} WHERE len(list_filter(pca, lambda x: NOT isfinite(x))) > 0 "
        "OR len(pca) = 0",
        "{count} projections are not finite numbers.",
    ),
)
