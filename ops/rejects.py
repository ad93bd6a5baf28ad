"""Rejects: which there are and why, where a rejected version is now, and which of them the stream can try again."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime
from typing import NoReturn

import duckdb
import pyarrow as pa

from features.errors import InvalidSetting
from features.rejects import Reason
from ops.query.query import connect
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.originals import VersionLocation, find_original
from store.state.erasures import check_no_erasure_unfinished
from store.state.plans import read_plans
from store.state.retries import Retry, list_requests, read_request, retried_rows
from store.tables.handles import committed_batch, open_table
from store.tables.reject_rows import existing_rejects
from store.tables.schemas import REJECT_ROWS

WHAT_TO_DO: Mapping[Reason, str] = {
    Reason.EMPTY: "upload it again",
    Reason.NOT_AN_IMAGE: "nothing: it is no photo",
    Reason.UNSUPPORTED_FORMAT: "upload it as JPEG, PNG, WebP, HEIC or AVIF",
    Reason.TRUNCATED: "upload it again",
    Reason.CORRUPT: "upload it again",
    Reason.TOO_MANY_PIXELS: "start the stream with a larger --max-pixels, then retry",
    Reason.TOO_MANY_BYTES: "start the stream with a larger --max-image-bytes, then retry",
    Reason.DECODER_CRASHED: "retry with a larger --max-decode-time, or upload it in another format",
    Reason.REPLACED: "nothing: the version that took its place is an arrival of its own",
    Reason.MISSING: "upload it again; if it was put back with its old time, retry",
    Reason.UNREADABLE: "let the stream read it (permission, key, class, disk), then retry; a bad name: rename it",
}


@dataclass(frozen=True)
class Reject:
    """A row of `rejects`; it is `settled` when its object came again and is a photo since."""

    source: str
    etag: str
    bytes: int
    arrived_at: datetime
    reason: str
    detail: str
    batch: int
    ingested_at: datetime
    ingest_date: date
    first_visible_at: datetime | None
    settled: bool


@dataclass(frozen=True)
class RejectFilter:
    """Which rejects: all that no field excludes. `since` is the first ingest_date, `sources` are URIs."""

    reason: Reason | None = None
    sources: tuple[str, ...] = ()
    since: date | None = None
    with_settled: bool = False


@dataclass(frozen=True)
class ReasonCount:
    """How many rejects have a reason, when the last one was ingested, and the detail of that one."""

    reason: Reason
    rejects: int
    last_at: datetime
    example: str


@dataclass(frozen=True)
class Summary:
    """The rejects that are not settled, by reason, most first; how many are settled, and how many requested again."""

    reasons: tuple[ReasonCount, ...]
    settled: int
    requested: int


@dataclass(frozen=True)
class RetrySelection:
    """What the stream can try again, by reason, and how many rejects were left out for which cause.

    `elsewhere` is the source of one in another landing, `erasures_begun` how many erasures there had been before.
    """

    retries: tuple[Retry, ...]
    reasons: Mapping[str, int]
    settled: int
    requested_before: int
    elsewhere: str | None
    erasures_begun: int


def source_of(home: Home, name: str) -> str:
    """The source of a landed object that a person names by its URI, its path, or its key below the landing."""
    if name.startswith(("s3://", "file://")):
        return home.source_at(name)
    if home.landing.is_local and name.startswith(f"{home.landing.directory}/"):
        return home.source_at(f"file://{name}")
    return home.landing.source_of(name)


def summarize(home: Home) -> Summary:
    """Counts of the home's rejects. Raises NothingIngested without tables, StateDamaged, StorageUnavailable."""
    connection = connect(home)
    reasons = connection.sql(
        "SELECT reason, count(*) AS rejects, max(ingested_at) AS last_at, arg_max(detail, ingested_at) AS example "
        f"FROM ({_WITH_SETTLED}) WHERE NOT settled GROUP BY reason ORDER BY rejects DESC, reason"
    )
    [(settled,)] = connection.sql(f"SELECT count(*) FROM ({_WITH_SETTLED}) WHERE settled").fetchall()
    return Summary(
        tuple(ReasonCount(Reason(row.pop("reason")), **row) for row in reasons.to_arrow_table().to_pylist()),
        settled,
        len(_requested_retries(home)),
    )


def list_rejects(home: Home, chosen: RejectFilter) -> pa.Table:
    """The chosen rejects with all their columns, newest first, and whether each is `settled`."""
    return _select(connect(home), chosen).to_arrow_table()


def rejects_of(home: Home, source: str) -> list[Reject]:
    """All rejects of one object, newest first. Raises InvalidSetting, which says what it is, when it is none."""
    connection = connect(home)
    found = _select(connection, RejectFilter(sources=(source,), with_settled=True))
    return _rows(found) or _raise_unknown(connection, source)


def find_version(home: Home, reject: Reject) -> VersionLocation:
    """Where the version that was rejected is now. Raises StorageUnavailable."""
    return find_original(home, reject.source, reject.etag, reject.bytes, reject.arrived_at)


def select_retries(home: Home, chosen: RejectFilter) -> RetrySelection:
    """What of the chosen rejects the stream can be asked to try again: all reject rows of each chosen version.

    Raises InvalidSetting for a source that has no reject, HomeInUse while an erasure is not finished, StateDamaged,
    StorageUnavailable.
    """
    erasures_begun = check_no_erasure_unfinished(home)
    connection = connect(home)
    if chosen.sources:
        named = _select(connection, RejectFilter(sources=chosen.sources, with_settled=True))
        if unknown := sorted(set(chosen.sources) - {row.source for row in _rows(named)}):
            _raise_unknown(connection, unknown[0])
    found = _rows(_select(connection, replace(chosen, with_settled=True)))
    rejected = [row for row in found if not row.settled]
    landing = f"{home.landing.source}/"
    ours = [row for row in rejected if row.source.startswith(landing)]
    elsewhere = next((row.source for row in rejected if not row.source.startswith(landing)), None)
    _register_versions(connection, ((row.source, row.etag) for row in ours))
    theirs = connection.sql(
        f"SELECT * FROM ({_WITH_SETTLED}) SEMI JOIN versions USING (source, etag) ORDER BY arrived_at, source"
    )
    retries = {_retry(row, landing): row.reason for row in _rows(theirs)}
    requested_before = _requested_retries(home)
    new = {retry: reason for retry, reason in retries.items() if retry not in requested_before}
    left_out = len(found) - len(rejected), len(retries) - len(new)
    return RetrySelection(tuple(new), Counter(new.values()), *left_out, elsewhere, erasures_begun)


def are_unfinished(home: Home, retries: Sequence[Retry]) -> bool:
    """Whether some of these are not planned yet, or planned and not committed."""
    rows = {retry.row(home.landing) for retry in retries}
    if not existing_rejects(home, rows):
        return False
    if set(retries) & _requested_retries(home):
        return True
    plans = read_plans(home, after=committed_batch(open_table(home, REJECT_ROWS)))
    return any(retried_rows(home, plan) & rows for plan in plans)


def count_outcomes(home: Home, retries: Sequence[Retry]) -> dict[str, int]:
    """How many of the objects are now a `photo`, and how many are rejected for which reason."""
    connection = connect(home)
    _register_versions(connection, ((home.landing.source_of(one.landed.key), one.landed.etag) for one in retries))
    counts = connection.sql(
        "SELECT outcome, count(*) FROM ("
        "SELECT source, etag, 'photo' AS outcome FROM features UNION SELECT source, etag, reason FROM rejects r "
        "ANTI JOIN features USING (source, etag)) SEMI JOIN versions USING (source, etag) GROUP BY 1 ORDER BY 1"
    )
    return dict(counts.fetchall())


def _requested_retries(home: Home) -> set[Retry]:
    requests = (read_request(home, name) for name in list_requests(home))
    return {retry for request in requests if request is not None for retry in request.retries}


def _retry(row: Reject, landing: str) -> Retry:
    visible_at = row.first_visible_at.astimezone(UTC) if row.first_visible_at else None
    key, arrived_at = row.source.removeprefix(landing), row.arrived_at.astimezone(UTC)
    landed = LandedObject(key, row.bytes, row.etag, arrived_at, visible_at)
    return Retry(landed, row.batch, row.ingest_date)


def _select(connection: duckdb.DuckDBPyConnection, chosen: RejectFilter) -> duckdb.DuckDBPyRelation:
    return connection.sql(
        f"SELECT * FROM ({_WITH_SETTLED}) WHERE ($reason IS NULL OR reason = $reason) "
        "AND ($since IS NULL OR ingest_date >= $since) AND (NOT settled OR $with_settled) "
        "AND (len($sources) = 0 OR list_contains($sources, source)) ORDER BY ingested_at DESC, source",
        params={
            "reason": None if chosen.reason is None else str(chosen.reason),
            "since": chosen.since,
            "with_settled": chosen.with_settled,
            "sources": list(chosen.sources),
        },
    )


def _rows(relation: duckdb.DuckDBPyRelation) -> list[Reject]:
    columns = [field.name for field in fields(Reject)]
    return [Reject(**row) for row in relation.to_arrow_table().select(columns).to_pylist()]


def _register_versions(connection: duckdb.DuckDBPyConnection, versions: Iterable[tuple[str, str]]) -> None:
    schema = pa.schema([("source", pa.string()), ("etag", pa.string())])
    rows = [{"source": source, "etag": etag} for source, etag in set(versions)]
    connection.register("versions", pa.Table.from_pylist(rows, schema))


def _raise_unknown(connection: duckdb.DuckDBPyConnection, source: str) -> NoReturn:
    found = connection.execute("SELECT batch FROM features WHERE source = ?", [source]).fetchone()
    if found is not None:
        raise InvalidSetting(f"{source} is no reject: it is a photo since batch {found[0]}.")
    raise InvalidSetting(f"No reject has the source {source}; `fruits rejects list` shows those there are.")


_WITH_SETTLED = """
    SELECT r.*, coalesce(f.batch > r.batch, FALSE) AS settled FROM rejects r LEFT JOIN (
        SELECT source, max(batch) AS batch FROM features SEMI JOIN rejects USING (source) GROUP BY source
    ) f USING (source)
"""
