"""The invariants of a home: every planned object has one row, and every row has what belongs to it."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ops.query.query import CURRENT_PROJECTIONS, connect_to, take_snapshot
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import describe_model
from store.models.registry import described_featurizers
from store.state.erasures import erased_rows, read_erasures
from store.state.expired import first_copied_day, first_kept_day
from store.state.plans import Plan, read_plan, read_result
from store.tables.handles import committed_batch, open_tables
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, Table
from streaming.discovery.processed_index import Day, IndexInfo

# What is compared with the tables: the columns of each relation.
_LONG, _TEXT, _DATE = pa.int64(), pa.string(), pa.date32()
_RELATIONS = {
    "planned": {"batch": _LONG, "source": _TEXT, "etag": _TEXT},
    # The reject rows that the batch `by` took away, because it tried their objects again.
    "retried": {"by": _LONG, "source": _TEXT, "etag": _TEXT, "batch": _LONG, "ingest_date": _DATE},
    "counted": {"batch": _LONG, "photos": _LONG, "rejects": _LONG},
    # What the batches of a day should hold, those after `after` and up to `through`.
    "days": {"ingest_date": _DATE, "photos": _LONG, "rejects": _LONG, "after": _LONG, "through": _LONG},
    "erased": {"name": _TEXT, "ingest_date": _DATE, "batch": _LONG, "rows": _LONG},
    "landings": {"name": _TEXT},
    # The batches whose photos should have copies.
    "copied": {"batch": _LONG},
    "featurizers": {"featurizer": _TEXT, "length": _LONG},
    # The served model: its featurizer's batches, up to the last committed one, must have its projections.
    "models": {"pca_version": pa.int32(), "featurizer": _TEXT, "last": _LONG},
}


def check_invariants(home: Home, last: int, committed: list[int], days: Iterable[Day], facts: IndexInfo) -> list[str]:
    """One sentence for each kind of invariant that does not hold; none before the tables are made.

    `last` is the last batch that all tables hold, `committed` those up to it whose plans are kept; `days` and `facts`
    are from the index of what was processed. Raises StateDamaged, StorageUnavailable.
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
    plans = {batch: plan for batch in committed if (plan := read_plan(home, batch)) and plan.ingest_date >= since}
    results = {batch: read_result(home, batch) for batch in plans}
    snapshot = take_snapshot(home)
    connection = connect_to(snapshot)
    for name, handle in snapshot.tables.items() if since != date.min else ():
        # The tables lose the rows of expired days one after the other.
        connection.register(name, handle.to_pyarrow_dataset().filter(pc.field("ingest_date") >= since))
    copied_since = first_copied_day(home)
    if copied_since != date.min and (copies := snapshot.tables.get(COPY_ROWS.name)) is not None:
        kept_copies = copies.to_pyarrow_dataset().filter(pc.field("ingest_date") >= copied_since)
        connection.register(COPY_ROWS.name, kept_copies)
    connection.execute(
        f"CREATE VIEW {_PHOTOS} AS SELECT DISTINCT batch, source, etag, image_id, ingest_date FROM {FEATURE_ROWS.name}"
    )
    # A stream goes on meanwhile: what the tables hold beyond `last` may have taken rejects of earlier batches away.
    latest = committed_batch(snapshot.tables[REJECT_ROWS.name])
    later = (read_plan(home, batch) for batch in range(last + 1, latest + 1))
    erased = erased_rows(home, open_tables(home))
    served = [describe_model(home, snapshot.models.serving)] if snapshot.models.serving is not None else []
    for name, rows in {
        "planned": (
            (plan.batch, landing.source_of(landed.key), landed.etag)
            for plan in plans.values()
            for landing in [home.landing_named(plan.landing)]
            for landed in plan.objects
        ),
        "retried": _retried_rows(home, [*plans.values(), *filter(None, later)]),
        "counted": (
            (batch, result.counters.photos, sum(result.counters.rejects.values()))
            for batch, result in results.items()
            if result is not None
        ),
        "days": (
            (day.ingest_date, day.photos, day.rejects, facts.days_since, facts.through)
            for day in days
            if day.ingest_date >= since
        ),
        "erased": (
            (name, day, batch, count)
            for name, by_day in erased.items()
            for day, batches in by_day.items()
            for batch, count in batches.items()
        ),
        "landings": ((name,) for name in {name for one in home.landings for name in (one.source, one.uri)}),
        "copied": ((batch,) for batch, plan in plans.items() if plan.copies and plan.ingest_date >= copied_since),
        "featurizers": ((meta.id, meta.length) for meta in described_featurizers(home)),
        "models": ((meta.version, meta.featurizer, last) for meta in served),
    }.items():
        connection.register(name, _relation(rows, _RELATIONS[name]))
    # What a snapshot covers is deleted, and that may have been just now.
    findings = [
        f"Batch {batch} is committed but has no result."
        for batch, result in results.items()
        if result is None and read_plan(home, batch) is not None and read_result(home, batch) is None
    ]
    for sql, sentence in _CHECKS:
        try:
            count = count_rows(connection, sql)
        except duckdb.Error as error:
            cause = str(error).partition("\n")[0].rstrip(".")
            raise StateDamaged(f"A file of the tables cannot be read; restore it. {cause}.") from error
        if count:
            findings.append(sentence.format(count=count))
    return findings


def _relation(rows: Iterable[tuple[Any, ...]], columns: Mapping[str, pa.DataType]) -> pa.Table:
    values = zip(*rows, strict=True)
    arrays = [pa.array(next(values, ()), kind) for kind in columns.values()]
    return pa.Table.from_arrays(arrays, list(columns))


def _retried_rows(home: Home, plans: Iterable[Plan]) -> Iterator[tuple[Any, ...]]:
    for plan in plans:
        landing = home.landing_named(plan.landing)
        etags = {landed.key: landed.etag for landed in plan.objects}
        for row in plan.retried:
            # An object that was erased since has no name here, and no row to be compared with.
            source, etag = (None, None) if row.key is None else (landing.source_of(row.key), etags[row.key])
            yield plan.batch, source, etag, row.batch, row.ingest_date


def count_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """How many rows a query gives."""
    found = connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()
    return int(found[0]) if found else 0


def _held(table: Table, which: str) -> str:
    erased = f"SELECT coalesce(sum(t.rows), 0) FROM erased t WHERE t.name = '{table.name}' AND {which}"
    rows = _PHOTOS if table is FEATURE_ROWS else table.name
    return f"(SELECT count(*) FROM {rows} t WHERE {which}) + ({erased})"


# A photo has a row of each featurizer; what only counts photos goes by this view.
_PHOTOS = "photo_rows"
_OF_THE_BATCH = "t.batch = counted.batch"
_OF_THE_DAY = "t.ingest_date = days.ingest_date AND t.batch > days.after AND t.batch <= days.through"
_OUTCOMES = f"""
    SELECT batch, source, etag FROM {_PHOTOS} UNION ALL SELECT batch, source, etag FROM {REJECT_ROWS.name}
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
        f"SELECT batch, source, etag, featurizer FROM {FEATURE_ROWS.name} GROUP BY ALL HAVING count(*) > 1",
        "{count} photos have more than one row of one featurizer for one arrival: doubled.",
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
        f"SELECT batch FROM counted WHERE photos <> {_held(FEATURE_ROWS, _OF_THE_BATCH)} "
        f"OR rejects <> {_held(REJECT_ROWS, _OF_THE_BATCH)} + (SELECT count(*) FROM retried t WHERE {_OF_THE_BATCH})",
        "{count} batches hold other numbers of rows than their results counted.",
    ),
    (
        f"SELECT ingest_date FROM days WHERE photos <> {_held(FEATURE_ROWS, _OF_THE_DAY)} OR rejects <> "
        f"{_held(REJECT_ROWS, _OF_THE_DAY)} + "
        f"(SELECT count(*) FROM retried t WHERE {_OF_THE_DAY} AND t.by > days.through)",
        "{count} days hold other numbers of rows than their batches counted.",
    ),
    (
        f"SELECT image_id FROM {FEATURE_ROWS.name} LEFT JOIN featurizers USING (featurizer) WHERE features IS NULL "
        "OR len(features) <> coalesce(length, len(features)) "
        "OR len(list_filter(features, lambda x: NOT coalesce(isfinite(x), false))) > 0",
        "{count} feature rows are not as many finite numbers as their featurizer gives.",
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
        "SELECT * FROM "
        f"(SELECT pca_version, featurizer, batch, count(*) AS n FROM {PROJECTION_ROWS.name} GROUP BY ALL) p "
        f"LEFT JOIN (SELECT featurizer, batch, count(*) AS n FROM {FEATURE_ROWS.name} GROUP BY ALL) f "
        "USING (featurizer, batch) "
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
    (
        f"SELECT batch, source, etag FROM {FEATURE_ROWS.name} SEMI JOIN copied USING (batch) "
        f"ANTI JOIN (SELECT batch, source, etag FROM {COPY_ROWS.name}) USING (batch, source, etag)",
        "{count} photos have no copy, though their batch kept copies: lost.",
    ),
    (
        f"SELECT batch, source, etag FROM {COPY_ROWS.name} GROUP BY ALL HAVING count(*) > 1",
        "{count} photos have more than one copy for one arrival: doubled.",
    ),
    (
        f"SELECT batch, source, etag, image_id FROM {COPY_ROWS.name} "
        f"EXCEPT SELECT batch, source, etag, image_id FROM {FEATURE_ROWS.name}",
        "{count} copies belong to no feature row.",
    ),
)
