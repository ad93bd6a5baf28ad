"""What the report shows: figures that the tables, the results and the models give, small however large the home."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime

import duckdb
import numpy as np

from batch.refit.scree import variance_thresholds
from features.pca import principal_angles_rad
from ops.query.query import connect
from ops.report.answers import all_rows, only_row
from ops.report.photo_map import MOST_PHOTOS_ON_MAP, PcaMap, photo_map
from store.home import Home
from store.models.pca_models import PcaModel, cached_model, current_models, versions
from store.models.registry import current_featurizer
from store.state.plans import Result, planned_batches, read_result

_MOST_BINS = 90
_BINS_S = (1, 5, 10, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400, 28 * 86400)
# A stream on a trickle leaves 43,000 results a day, and each is a request on S3.
_MOST_RESULTS = 300
_RESULTS_AT_ONCE = 16
# Shorter than times of day in seconds can tell.
_LEAST_S = 1e-3
_MOST_VERSIONS = 8
_SPECTRUM_POINTS = 90
_SHIFT_COMPONENTS = 8


@dataclass(frozen=True)
class Totals:
    """The home in numbers; times are those of ingestion, seconds are from arrival to ingestion."""

    photos: int
    rejects: int
    labels: int
    photo_bytes: int
    first_at: datetime | None
    last_at: datetime | None
    median_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class LeftOut:
    """What was ingested before the first day that the report shows."""

    photos: int
    rejects: int
    batches: int
    days: int


@dataclass(frozen=True)
class Flow:
    """What was ingested in one piece of time, and how long it had waited: percentiles, None where nothing came."""

    at: datetime
    photos: int
    rejects: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True)
class Pace:
    """Photos a second while batches were at work in one piece of time.

    `limit_per_s` is what the cores could do with these photos if they did nothing but decode and infer; None where the
    results do not tell how many cores there were.
    """

    at: datetime
    batches: int
    photos: float
    per_s: float
    limit_per_s: float | None


@dataclass(frozen=True)
class Version:
    """One PCA version: shares of the variance at some components of all, and the turn from its parent.

    `spectrum` holds (component, its share, share of all up to it); `angles_deg` are the principal angles between the
    kept subspace and the parent's, ascending, empty without a parent that is still there.
    """

    version: int
    rows: int
    components: int
    explained: float
    fitted_at: datetime
    parent: int | None
    at_80: int
    at_95: int
    spectrum: list[tuple[int, float, float]]
    angles_deg: list[float]


@dataclass(frozen=True)
class Shift:
    """How far the mean projection of a day's photos lies from the model's, in standard deviations of one photo.

    It is the root mean square over the leading components; `by_chance` is what it is in the mean if nothing drifts.
    """

    day: date
    photos: int
    shift: float
    by_chance: float


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    home: str
    made_at: datetime
    since: date | None
    left_out: LeftOut | None
    featurizer: str | None
    serving: int | None
    totals: Totals
    bin_s: int
    flow: list[Flow]
    reasons: list[tuple[str, int]]
    pace: list[Pace]
    pace_bin_s: int
    versions: list[Version]
    shifts: list[Shift]
    pca_map: PcaMap | None


def collect(home: Home, since: date | None = None, most_photos: int = MOST_PHOTOS_ON_MAP) -> Report:
    """The figures of a home from a day of ingestion on, read-only; sampled photos are the same at each call.

    Raises NothingIngested when the home has no tables yet, StateDamaged, StorageUnavailable.
    """
    connection = connect(home)
    # Views, so that each query still skips the files of other days.
    for name in ("features", "rejects", "current_projections"):
        condition = f"ingest_date >= DATE '{since}'" if since else "true"
        connection.execute(f"CREATE VIEW seen_{name} AS SELECT * FROM {name} WHERE {condition}")
    serving = current_models(home).serving
    served = None if serving is None else cached_model(home, serving)
    totals = _totals(connection)
    bin_s = _bin_s(totals.first_at, totals.last_at)
    pace, pace_bin_s = _pace(_results(home, since))
    return Report(
        home=home.root.uri,
        made_at=datetime.now(UTC),
        since=since,
        left_out=_left_out(connection, since) if since else None,
        featurizer=current_featurizer(home),
        serving=serving,
        totals=totals,
        bin_s=bin_s,
        flow=_flow(connection, bin_s),
        reasons=all_rows(
            connection, "SELECT reason, count(*) AS files FROM seen_rejects GROUP BY reason ORDER BY files DESC, reason"
        ),
        pace=pace,
        pace_bin_s=pace_bin_s,
        versions=_versions(home, served),
        shifts=_shifts(connection, served),
        pca_map=photo_map(connection, home, served, most_photos),
    )


def _left_out(connection: duckdb.DuckDBPyConnection, since: date) -> LeftOut:
    before = f"ingest_date < DATE '{since}'"
    row = only_row(
        connection,
        f"""
        WITH gone AS (
            SELECT ingest_date, batch, 1 AS photo FROM features WHERE {before}
            UNION ALL SELECT ingest_date, batch, 0 FROM rejects WHERE {before}
        )
        SELECT coalesce(sum(photo), 0)::BIGINT, count(*), count(DISTINCT batch), count(DISTINCT ingest_date) FROM gone
        """,
    )
    photos, all_of_them, batches, days = row
    return LeftOut(photos, all_of_them - photos, batches, days)


def _totals(connection: duckdb.DuckDBPyConnection) -> Totals:
    photos = only_row(
        connection,
        "SELECT count(*), count(DISTINCT nfc_normalize(label)), coalesce(sum(bytes), 0)::BIGINT, min(ingested_at), "
        f"max(ingested_at), quantile_cont({_WAITED_S}, 0.5), quantile_cont({_WAITED_S}, 0.95) FROM seen_features",
    )
    rejects = only_row(connection, "SELECT count(*), min(ingested_at), max(ingested_at) FROM seen_rejects")
    return Totals(
        photos=photos[0],
        rejects=rejects[0],
        labels=photos[1],
        photo_bytes=photos[2],
        first_at=min(filter(None, (photos[3], rejects[1])), default=None),
        last_at=max(filter(None, (photos[4], rejects[2])), default=None),
        median_s=photos[5],
        p95_s=photos[6],
    )


# A clock that is behind the storage's would make a wait negative.
_WAITED_S = "greatest(epoch(ingested_at) - epoch(coalesce(first_visible_at, arrived_at)), 0)"


def _bin_s(first: datetime | None, last: datetime | None) -> int:
    span_s = (last - first).total_seconds() if first and last else 0.0
    return next((bin_s for bin_s in _BINS_S if span_s / bin_s <= _MOST_BINS), _BINS_S[-1] * 13)


def _flow(connection: duckdb.DuckDBPyConnection, bin_s: int) -> list[Flow]:
    bin_of = f"(floor(epoch(ingested_at) / {bin_s}) * {bin_s})::BIGINT"
    rows = all_rows(
        connection,
        f"""
        WITH photos AS (
            SELECT {bin_of} AS at_s, count(*) AS photos, quantile_cont({_WAITED_S}, [0.5, 0.95, 0.99]) AS waited_s
            FROM seen_features GROUP BY ALL
        ), rejected AS (SELECT {bin_of} AS at_s, count(*) AS rejects FROM seen_rejects GROUP BY ALL)
        SELECT at_s, coalesce(photos, 0), coalesce(rejects, 0), waited_s[1], waited_s[2], waited_s[3]
        FROM photos FULL JOIN rejected USING (at_s) ORDER BY at_s
        """,
    )
    return [Flow(datetime.fromtimestamp(at_s, UTC), *figures) for at_s, *figures in rows]


def _results(home: Home, since: date | None) -> list[Result]:
    """The newest results, by the time they were finished; those of older batches are folded away after a day."""
    newest = planned_batches(home)[-_MOST_RESULTS:]
    with ThreadPoolExecutor(_RESULTS_AT_ONCE, thread_name_prefix="results") as pool:
        found = pool.map(lambda batch: read_result(home, batch), newest)
        results = [result for result in found if result and (since is None or result.finished_at.date() >= since)]
    return sorted(results, key=lambda result: result.finished_at)


def _pace(results: Sequence[Result]) -> tuple[list[Pace], int]:
    """Photos are spread evenly over the time of their batch, as batches overlap and can outlast a piece of time."""
    worked = [_Work.of(result) for result in results if result.counters.photos and result.counters.wall_s > _LEAST_S]
    if not worked:
        return [], 0
    began_s, ended_s = min(work.began_s for work in worked), max(work.ended_s for work in worked)
    bin_s = _bin_s(datetime.fromtimestamp(began_s, UTC), datetime.fromtimestamp(ended_s, UTC))
    bins: dict[int, list[_Work]] = {}
    for work in worked:
        for at_s in range(int(work.began_s // bin_s) * bin_s, int(np.ceil(work.ended_s)), bin_s):
            bins.setdefault(at_s, []).append(work.within(at_s, at_s + bin_s))
    return [_pace_of(at_s, works) for at_s, works in sorted(bins.items())], bin_s


@dataclass(frozen=True)
class _Work:
    """A batch at work, or a part of that."""

    began_s: float
    ended_s: float
    photos: float
    busy_s: float
    slots: int

    @classmethod
    def of(cls, result: Result) -> "_Work":
        counters, ended_s = result.counters, result.finished_at.timestamp()
        busy_s = counters.decode_s + counters.infer_s
        return cls(ended_s - counters.wall_s, ended_s, counters.photos, busy_s, counters.slots)

    def within(self, from_s: float, to_s: float) -> "_Work":
        began_s, ended_s = max(self.began_s, from_s), min(self.ended_s, to_s)
        share = max(ended_s - began_s, 0) / (self.ended_s - self.began_s)
        return _Work(began_s, ended_s, self.photos * share, self.busy_s * share, self.slots)


def _pace_of(at_s: int, works: Sequence[_Work]) -> Pace:
    photos, busy_s = sum(work.photos for work in works), sum(work.busy_s for work in works)
    slots = min(work.slots for work in works)
    return Pace(
        at=datetime.fromtimestamp(at_s, UTC),
        batches=len(works),
        photos=photos,
        per_s=photos / _at_work_s(works),
        limit_per_s=slots * photos / busy_s if slots and busy_s else None,
    )


def _at_work_s(works: Sequence[_Work]) -> float:
    """The seconds in which at least one was at work."""
    worked_s, until_s = 0.0, -np.inf
    for work in sorted(works, key=lambda work: work.began_s):
        worked_s += max(work.ended_s - max(work.began_s, until_s), 0)
        until_s = max(until_s, work.ended_s)
    return worked_s


def _versions(home: Home, served: PcaModel | None) -> list[Version]:
    """The newest versions, and the served one where it is older."""
    numbers = versions(home)
    shown = {*numbers[-_MOST_VERSIONS:], *([served.meta.version] if served else [])}
    return [_version(home, cached_model(home, number), set(numbers)) for number in sorted(shown)]


def _version(home: Home, model: PcaModel, there: set[int]) -> Version:
    meta, ratios = model.meta, model.pca.explained_variance_ratio
    cumulative = np.cumsum(ratios)
    wanted = np.unique(np.geomspace(1, len(ratios), _SPECTRUM_POINTS).astype(int))
    found = variance_thresholds(ratios)
    parent = cached_model(home, meta.parent) if meta.parent in there else None
    return Version(
        version=meta.version,
        rows=meta.rows,
        components=meta.components,
        explained=meta.explained,
        fitted_at=meta.fitted_at,
        parent=meta.parent,
        at_80=found.at_80,
        at_95=found.at_95,
        spectrum=[(int(n), float(ratios[n - 1]), float(cumulative[n - 1])) for n in wanted],
        angles_deg=_angles_deg(model, parent) if parent and parent.meta.featurizer == meta.featurizer else [],
    )


def _angles_deg(model: PcaModel, parent: PcaModel) -> list[float]:
    angles = np.degrees(principal_angles_rad(model.pca.components, parent.pca.components))
    return [float(angle) for angle in angles]


def _shifts(connection: duckdb.DuckDBPyConnection, served: PcaModel | None) -> list[Shift]:
    if served is None:
        return []
    variances = served.pca.explained_variance
    used = [n for n in range(1, min(_SHIFT_COMPONENTS, served.meta.components) + 1) if variances[n - 1] > 0]
    means = ", ".join(f"avg(pca[{n}])" for n in used)
    rows = all_rows(
        connection,
        f"SELECT ingest_date AS day, count(*), {means} FROM seen_current_projections GROUP BY day ORDER BY day",
    )
    spread = np.sqrt([variances[n - 1] for n in used])
    return [
        Shift(day, photos, float(np.sqrt(np.mean((np.array(mean) / spread) ** 2))), 1 / float(np.sqrt(photos)))
        for day, photos, *mean in rows
    ]
