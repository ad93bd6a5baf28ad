"""What the report shows: figures from the tables, the results and the models, small however large the home."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa

from batch.refit.scree import variance_thresholds
from features.pca import principal_angles_rad
from ops.query.query import connect
from ops.report.names import Names, collect_names
from ops.report.photo_map import MOST_PHOTOS_ON_MAP, PcaMap, Row, photo_map, query_rows
from ops.status.answers import recent_answers
from store.home import Home
from store.models.pca_models import PcaModel, cached_model, current_models, versions
from store.state.plans import planned_batches, read_result

_MOST_BINS = 90
_BINS_S = (1, 5, 10, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400, 28 * 86400)
# A stream on a trickle leaves 43,000 results a day, and each is a request on S3.
_MOST_RESULTS = 300
_RESULTS_AT_ONCE = 16
# Times of day in seconds are not exact below this.
_SHORTEST_S = 1e-3
_MOST_VERSIONS = 8
_SPECTRUM_POINTS = 90
_SHIFT_COMPONENTS = 8
# A clock that is behind the storage's would make a wait negative.
_WAIT_S = "greatest(epoch(ingested_at) - epoch(first_visible_at), 0)"


@dataclass(frozen=True)
class Report:
    """Everything the page shows. Rows have the names of the columns that the queries below give.

    `left_out`: what was ingested before `since`.
    `accuracy`: how many answers of the last 28 days were right, whatever `since` says.
    `flow`: what was ingested in each bin of `bin_s` seconds, and percentiles of the waits, None where no photo came.
    `pace`: photos a second while batches were at work, in bins of `pace_bin_s` seconds. `limit_per_s` is what the cores
    could do if they only decoded and inferred; None where results do not say how many cores there were.
    `versions`: the newest PCA versions. `spectrum` is (component, its share of the variance, share of all up to it);
    `angles_deg` are the principal angles to the parent's subspace, ascending, empty without a parent to compare with.
    `shifts`: how far each day's mean projection is from the served version's mean, in standard deviations of one photo,
    as root mean square over the leading components, and what chance gives.
    """

    home: str
    made_at: datetime
    since: date | None
    left_out: Row | None
    featurizer: str | None
    serving: int | None
    totals: Row
    accuracy: Row
    bin_s: int
    flow: list[Row]
    reasons: list[Row]
    pace: list[Row]
    pace_bin_s: int
    versions: list[Row]
    shifts: list[Row]
    names: Names
    pca_map: PcaMap | None


def collect(home: Home, since: date | None = None, most_photos: int = MOST_PHOTOS_ON_MAP) -> Report:
    """The figures of a home from a day of ingestion on, read-only; sampled photos are the same at each call.

    Raises NothingIngested when the home has no tables yet, StateDamaged, StorageUnavailable.
    """
    connection = connect(home)
    # Views, so that each query still skips the files of other days.
    for name in ("ingested_photos", "rejects", "current_projections"):
        condition = f"ingest_date >= DATE '{since}'" if since else "true"
        connection.execute(f"CREATE VIEW seen_{name} AS SELECT * FROM {name} WHERE {condition}")
    serving = current_models(home).serving
    served = None if serving is None else cached_model(home, serving)
    (totals,) = query_rows(connection, _TOTALS)
    first_at, last_at = totals["first_at"], totals["last_at"]
    bin_s = _bin_s((last_at - first_at).total_seconds() if first_at else 0.0)
    pace, pace_bin_s = _pace(connection, home, since)
    return Report(
        home=home.root.uri,
        made_at=datetime.now(UTC),
        since=since,
        left_out=query_rows(connection, _LEFT_OUT.format(since=since))[0] if since else None,
        featurizer=current_models(home).featurizer,
        serving=serving,
        totals=totals,
        accuracy=asdict(recent_answers(home).accuracy),
        bin_s=bin_s,
        flow=query_rows(connection, _FLOW.format(bin_s=bin_s)),
        reasons=query_rows(connection, _REASONS),
        pace=pace,
        pace_bin_s=pace_bin_s,
        versions=_versions(home, served),
        shifts=_shifts(connection, served),
        names=collect_names(connection, home, served, since),
        pca_map=photo_map(connection, home, served, most_photos),
    )


_LEFT_OUT = """
    WITH gone AS (
        SELECT ingest_date, batch, 1 AS photo FROM ingested_photos WHERE ingest_date < DATE '{since}'
        UNION ALL SELECT ingest_date, batch, 0 FROM rejects WHERE ingest_date < DATE '{since}'
    )
    SELECT coalesce(sum(photo), 0)::BIGINT AS photos, count(*) - photos AS rejects, count(DISTINCT batch) AS batches,
           count(DISTINCT ingest_date) AS days
    FROM gone
"""
_TOTALS = f"""
    SELECT photos, rejects, labels, photo_bytes, least(photo.first_at, reject.first_at) AS first_at,
           greatest(photo.last_at, reject.last_at) AS last_at, waits_s[1] AS median_s, waits_s[2] AS p95_s
    FROM (
        SELECT count(*) AS photos, count(DISTINCT folder_label) AS labels,
               coalesce(sum(bytes), 0)::BIGINT AS photo_bytes, min(ingested_at) AS first_at,
               max(ingested_at) AS last_at, quantile_cont({_WAIT_S}, [0.5, 0.95]) AS waits_s
        FROM seen_ingested_photos
    ) AS photo, (
        SELECT count(*) AS rejects, min(ingested_at) AS first_at, max(ingested_at) AS last_at FROM seen_rejects
    ) AS reject
"""
_FLOW = f"""
    WITH photos AS (
        SELECT floor(epoch(ingested_at) / {{bin_s}}) * {{bin_s}} AS at_s, count(*) AS photos,
               quantile_cont({_WAIT_S}, [0.5, 0.95, 0.99]) AS waits_s
        FROM seen_ingested_photos GROUP BY ALL
    ), rejected AS (
        SELECT floor(epoch(ingested_at) / {{bin_s}}) * {{bin_s}} AS at_s, count(*) AS rejects
        FROM seen_rejects GROUP BY ALL
    )
    SELECT to_timestamp(at_s) AS at, coalesce(photos, 0) AS photos, coalesce(rejects, 0) AS rejects,
           waits_s[1] AS p50_s, waits_s[2] AS p95_s, waits_s[3] AS p99_s
    FROM photos FULL JOIN rejected USING (at_s) ORDER BY at_s
"""
_REASONS = "SELECT reason, count(*) AS files FROM seen_rejects GROUP BY reason ORDER BY files DESC, reason"
# Batches overlap and can outlast a bin: each one's photos are spread evenly over its time, and the seconds of a bin in
# which several were at work count once.
_PACE = """
    WITH pieces AS (
        SELECT *, unnest(range(floor(began_s / {bin_s})::BIGINT, ceil(ended_s / {bin_s})::BIGINT)) * {bin_s} AS at_s
        FROM work
    ), cut AS (
        SELECT at_s, slots, greatest(began_s, at_s) AS from_s, least(ended_s, at_s + {bin_s}) AS to_s,
               (to_s - from_s) / (ended_s - began_s) AS part, part * photos AS photos, part * busy_s AS busy_s
        FROM pieces
    ), alone AS (
        SELECT *, greatest(from_s, coalesce(max(to_s) OVER before, 0)) AS alone_from_s
        FROM cut WINDOW before AS (PARTITION BY at_s ORDER BY from_s ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
    SELECT to_timestamp(at_s) AS at, count(*) AS batches, sum(photos) AS photos,
           sum(photos) / sum(greatest(to_s - alone_from_s, 0)) AS per_s,
           nullif(min(slots), 0) * sum(photos) / nullif(sum(busy_s), 0) AS limit_per_s
    FROM alone GROUP BY at_s ORDER BY at_s
"""


def _bin_s(span_s: float) -> int:
    return next((bin_s for bin_s in _BINS_S if span_s / bin_s <= _MOST_BINS), _BINS_S[-1] * 13)


def _pace(connection: duckdb.DuckDBPyConnection, home: Home, since: date | None) -> tuple[list[Row], int]:
    """The pace by bins, and the seconds of a bin, from the newest results; those older than a day are folded away."""
    newest = planned_batches(home)[-_MOST_RESULTS:]
    with ThreadPoolExecutor(_RESULTS_AT_ONCE, thread_name_prefix="results") as pool:
        results = list(pool.map(partial(read_result, home), newest))
    work = [
        {
            "began_s": result.finished_at.timestamp() - result.counters.wall_s,
            "ended_s": result.finished_at.timestamp(),
            "photos": float(result.counters.photos),
            "busy_s": result.counters.decode_s + result.counters.infer_s,
            "slots": result.counters.slots,
        }
        for result in results
        if result and result.counters.photos and result.counters.wall_s > _SHORTEST_S
        if since is None or result.finished_at.date() >= since
    ]
    if not work:
        return [], 0
    bin_s = _bin_s(max(row["ended_s"] for row in work) - min(row["began_s"] for row in work))
    connection.register("work", pa.Table.from_pylist(work))
    return query_rows(connection, _PACE.format(bin_s=bin_s)), bin_s


def _versions(home: Home, served: PcaModel | None) -> list[Row]:
    """The newest versions, and the served one where it is older."""
    existing = versions(home)
    shown = {*existing[-_MOST_VERSIONS:], *([served.meta.version] if served else [])}
    return [_version(home, cached_model(home, number), existing) for number in sorted(shown)]


def _version(home: Home, model: PcaModel, existing: list[int]) -> Row:
    meta, ratios = model.meta, model.pca.explained_variance_ratio
    cumulative = np.cumsum(ratios)
    drawn = np.unique(np.geomspace(1, len(ratios), _SPECTRUM_POINTS).astype(int))
    thresholds = variance_thresholds(ratios)
    parent = cached_model(home, meta.parent) if meta.parent in existing else None
    angles_rad = np.array([])
    if parent and parent.meta.featurizer == meta.featurizer:
        angles_rad = principal_angles_rad(model.pca.components, parent.pca.components)
    return {
        "version": meta.version,
        "components": meta.components,
        "explained": meta.explained,
        "parent": meta.parent,
        "at_80": thresholds.at_80,
        "at_95": thresholds.at_95,
        "spectrum": [(int(n), float(ratios[n - 1]), float(cumulative[n - 1])) for n in drawn],
        "angles_deg": np.degrees(angles_rad).tolist(),
    }


def _shifts(connection: duckdb.DuckDBPyConnection, served: PcaModel | None) -> list[Row]:
    if served is None:
        return []
    variances = served.pca.explained_variance[: min(_SHIFT_COMPONENTS, served.meta.components)].tolist()
    terms = [f"avg(pca[{n}]) ** 2 / {variance!r}" for n, variance in enumerate(variances, 1) if variance > 0]
    return query_rows(
        connection,
        f"SELECT ingest_date AS day, count(*) AS photos, sqrt(({' + '.join(terms)}) / {len(terms)}) AS shift, "
        "1 / sqrt(photos) AS by_chance FROM seen_current_projections GROUP BY day ORDER BY day",
    )
