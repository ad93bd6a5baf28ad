"""Whether a home keeps its promises: every planned object has one row, every row what belongs to it."""

from collections.abc import Iterable
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ops.query.query import CURRENT_PROJECTIONS, connect_to, take_snapshot
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import Current, describe_model
from store.state.erasures import erased_rows, read_erasures
from store.state.expired import first_kept_day
from store.state.plans import Plan, Result, read_plan, read_result
from store.tables.handles import committed_batch, open_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from streaming.discovery.processed_index import Day, IndexInfo


def broken_promises(home: Home, last: int, committed: list[int], days: Iterable[Day], facts: IndexInfo) -> list[str]:
    """One sentence for each kind of promise that is broken; none before the tables are made.

    `last` is the last batch that all tables hold, `committed` those up to it whose plans are kept; `days` and `facts`
    are what the stream's memory says. Raises StateDamaged, StorageUnavailable.
    """
    if None in open_tables(home).handles.values():
        return []
    if unfinished := read_erasures(home).unfinished:
        began_at = min(erasure.before for erasure in unfinished)
        return [
            f"The erasure asked for at {began_at:%Y-%m-%d %H:%M} UTC is not finished, so nothing else was checked; "
            "if none is at work, run it again with the same option."
        ]
    since = first_kept_day(home)
    if since != date.min:
        kept = ((batch, read_plan(home, batch)) for batch in committed)
        committed = [batch for batch, plan in kept if plan is not None and plan.ingest_date >= since]
    plans = [plan for plan in (read_plan(home, batch) for batch in committed) if plan is not None]
    planned, results = _planned_objects(home, plans), [read_result(home, batch) for batch in committed]
    snapshot = take_snapshot(home)
    connection = connect_to(snapshot)
    for name, handle in snapshot.tables.items() if since != date.min else ():
        # The tables lose the rows of expired days one after the other.
        connection.register(name, handle.to_pyarrow_dataset().filter(pc.field("ingest_date") >= since))
    connection.register("planned", planned)
    connection.register("days", _days(days, facts).filter(pc.field("ingest_date") >= since))
    connection.register("erased", _erased(home))
    connection.register("counted", _counted([result for result in results if result is not None]))
    # A stream goes on meanwhile: what the tables hold beyond `last` may have taken rejects of earlier batches away.
    latest = committed_batch(snapshot.tables[REJECT_ROWS.name])
    later = (read_plan(home, batch) for batch in range(last + 1, latest + 1))
    connection.register("retried", _retried(home, [*plans, *filter(None, later)]))
    connection.register(
        "landings",
        pa.table(
            {"name": pa.array(sorted({one.source for one in home.landings} | {one.uri for one in home.landings}))}
        ),
    )
    connection.register("models", _models(home, snapshot.models, last))
    # What a snapshot covers is deleted, and that may have been just now.
    missing_results = [
        batch
        for batch, result in zip(committed, results, strict=True)
        if result is None and read_plan(home, batch) is not None and read_result(home, batch) is None
    ]
    findings = [f"Batch {batch} is committed but has no result." for batch in missing_results]
    for sql, sentence in _CHECKS:
        try:
            count = count_of(connection, sql)
        except duckdb.Error as error:
            raise StateDamaged(f"A file of the tables cannot be read; restore it. {_first_line(error)}.") from error
        if count:
            findings.append(sentence.format(count=count))
    return findings


def _planned_objects(home: Home, plans: Iterable[Plan]) -> pa.Table:
    columns: dict[str, list[object]] = {"batch": [], "source": [], "etag": []}
    for plan in plans:
        landing = home.landing_named(plan.landing)
        columns["batch"] += [plan.batch] * len(plan.objects)
        columns["source"] += [landing.source_of(landed.key) for landed in plan.objects]
        columns["etag"] += [landed.etag for landed in plan.objects]
    schema = pa.schema([("batch", pa.int64()), ("source", pa.string()), ("etag", pa.string())])
    return pa.table(columns, schema=schema)


def _retried(home: Home, plans: Iterable[Plan]) -> pa.Table:
    """The reject rows that these plans' batches took away; `by` is which."""
    schema = pa.schema([REJECT_ROWS.schema.field(name) for name in ("source", "etag", "batch", "ingest_date")])
    rows = []
    for plan in plans:
        landing = home.landing_named(plan.landing)
        etags = {landed.key: landed.etag for landed in plan.objects}
        for row in plan.retried:
            # An object that was erased since has no name here, and no row to be compared with.
            source = None if row.key is None else landing.source_of(row.key)
            etag = None if row.key is None else etags[row.key]
            rows.append(
                {"by": plan.batch, "source": source, "etag": etag}
                | {"batch": row.batch, "ingest_date": row.ingest_date}
            )
    return pa.Table.from_pylist(rows, schema=schema.append(pa.field("by", pa.int64())))


def _models(home: Home, models: Current, last: int) -> pa.Table:
    """One row for the served model: its featurizer's batches, up to the last committed one, must have it."""
    served = [] if models.serving is None else [describe_model(home, models.serving)]
    rows = [{"pca_version": meta.version, "featurizer": meta.featurizer, "last": last} for meta in served]
    schema = pa.schema([("pca_version", pa.int32()), ("featurizer", pa.string()), ("last", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def _days(days: Iterable[Day], facts: IndexInfo) -> pa.Table:
    """What the batches of each day should hold, as far back as that is known."""
    rows = [
        {"ingest_date": day.ingest_date, "photos": day.photos, "rejects": day.rejects}
        | {"after": facts.days_since, "through": facts.through}
        for day in days
    ]
    numbers = [(name, pa.int64()) for name in ("photos", "rejects", "after", "through")]
    return pa.Table.from_pylist(rows, schema=pa.schema([("ingest_date", pa.date32()), *numbers]))


def _erased(home: Home) -> pa.Table:
    """How many rows of which batch were erased, by table."""
    rows = [
        {"name": name, "ingest_date": day, "batch": batch, "rows": count}
        for name, days in erased_rows(home, open_tables(home)).items()
        for day, batches in days.items()
        for batch, count in batches.items()
    ]
    columns = [("name", pa.string()), ("ingest_date", pa.date32()), ("batch", pa.int64()), ("rows", pa.int64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def _counted(results: Iterable[Result]) -> pa.Table:
    rows = [
        {"batch": r.batch, "photos": r.counters.photos, "rejects": sum(r.counters.rejects.values())} for r in results
    ]
    schema = pa.schema([("batch", pa.int64()), ("photos", pa.int64()), ("rejects", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def count_of(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """How many rows a query gives."""
    found = connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()
    return int(found[0]) if found else 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _erased_where(table: str, which: str) -> str:
    return f"(SELECT coalesce(sum(e.rows), 0) FROM erased e WHERE e.name = '{table}' AND {which})"


_OF_THE_DAY = "e.ingest_date = days.ingest_date AND e.batch > days.after AND e.batch <= days.through"
_OUTCOMES = f"""
    SELECT batch, source, etag FROM {FEATURE_ROWS.name} UNION ALL SELECT batch, source, etag FROM {REJECT_ROWS.name}
"""
# What was tried again has the row of its later batch only.
_OWED = "SELECT * FROM planned ANTI JOIN retried USING (batch, source, etag)"
_CHECKS = (
    (
        f"SELECT * FROM ({_OWED}) ANTI JOIN ({_OUTCOMES}) USING (batch, source, etag)",
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
        f"SELECT image_id FROM {FEATURE_ROWS.name} f JOIN landings l ON starts_with(f.source, l.name || '/') "
        "GROUP BY image_id, etag, substr(f.source, length(l.name) + 2) HAVING count(DISTINCT f.source) > 1",
        "{count} photos have rows under two names of a landing: doubled.",
    ),
    (
        f"SELECT * FROM ({_OUTCOMES}) SEMI JOIN (SELECT DISTINCT batch FROM planned) USING (batch) "
        f"ANTI JOIN ({_OWED}) USING (batch, source, etag)",
        "{count} rows belong to no object of their batch's plan.",
    ),
    (
        f"SELECT batch FROM counted WHERE photos <> (SELECT count(*) FROM {FEATURE_ROWS.name} f "
        f"WHERE f.batch = counted.batch) + {_erased_where('features', 'e.batch = counted.batch')} "
        f"OR rejects <> (SELECT count(*) FROM {REJECT_ROWS.name} r "
        f"WHERE r.batch = counted.batch) + {_erased_where('rejects', 'e.batch = counted.batch')} "
        "+ (SELECT count(*) FROM retried t WHERE t.batch = counted.batch)",
        "{count} batches hold other numbers of rows than their results counted.",
    ),
    (
        f"SELECT ingest_date FROM days WHERE photos <> (SELECT count(*) FROM {FEATURE_ROWS.name} f "
        "WHERE f.ingest_date = days.ingest_date AND f.batch > days.after AND f.batch <= days.through) + "
        f"{_erased_where('features', _OF_THE_DAY)} "
        f"OR rejects <> (SELECT count(*) FROM {REJECT_ROWS.name} r "
        "WHERE r.ingest_date = days.ingest_date AND r.batch > days.after AND r.batch <= days.through) + "
        f"{_erased_where('rejects', _OF_THE_DAY)} "
        "+ (SELECT count(*) FROM retried t WHERE t.ingest_date = days.ingest_date "
        "AND t.batch > days.after AND t.batch <= days.through AND t.by > days.through)",
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
