"""What was rejected and why, where it stands now, and asking the stream to try it once more."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import Any, Literal

import duckdb
import pyarrow as pa

from features.errors import InvalidSetting
from features.rejects import Reason
from ops.query.query import connect
from store.errors import StorageRefused
from store.home import Home
from store.objects.landing import LandedObject, archived_name, stat_object
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
StorageLocation = Literal["landing", "archive", "replaced", "gone", "unknown"]


@dataclass(frozen=True)
class Choice:
    """Which rejects: all that no option excludes. `since` is the first ingest_date, `sources` are URIs."""

    reason: Reason | None = None
    sources: tuple[str, ...] = ()
    since: date | None = None
    with_settled: bool = False


@dataclass(frozen=True)
class Standing:
    """Where the rejected version is now; `detail` is the etag, the key or the words that belong to it."""

    place: StorageLocation
    detail: str = ""


@dataclass(frozen=True)
class Retryable:
    """What a choice comes to: what can be tried again, by reason, and how many are passed over for which cause.

    `erasures_begun` is how many erasures there had been before the rejects were read.
    """

    retries: tuple[Retry, ...]
    reasons: Mapping[str, int]
    settled: int
    asked_before: int
    elsewhere: str | None
    erasures_begun: int


def reason_named(name: str) -> Reason:
    """The reason of this name. Raises InvalidSetting."""
    try:
        return Reason(name)
    except ValueError:
        raise InvalidSetting(f"{name!r} is no reason; the reasons are {', '.join(Reason)}.") from None


def source_named(home: Home, name: str) -> str:
    """The source of a landed object that a person names by its URI, its path, or its key below the landing."""
    if name.startswith(("s3://", "file://")):
        return home.source_at(name)
    if home.landing.is_local and name.startswith(f"{home.landing.directory}/"):
        return home.source_at(f"file://{name}")
    return home.landing.source_of(name)


def counts(home: Home) -> pa.Table:
    """One row for each reason that has open rejects: how many, the last one's time, and an example's detail.

    A reject is settled, and not counted, when its object came again and is a photo since.
    Raises NothingIngested when the home has no tables yet, StorageUnavailable.
    """
    return (
        connect(home)
        .sql(
            f"SELECT reason, count(*) AS rejects, max(ingested_at) AS last, arg_max(detail, ingested_at) AS example "
            f"FROM ({_WITH_SETTLED}) WHERE NOT settled GROUP BY reason ORDER BY rejects DESC, reason"
        )
        .to_arrow_table()
    )


def settled_count(home: Home) -> int:
    """How many rejects are settled."""
    [(count,)] = connect(home).sql(f"SELECT count(*) FROM ({_WITH_SETTLED}) WHERE settled").fetchall()
    return int(count)


def rejects(home: Home, choice: Choice) -> pa.Table:
    """The chosen rejects with all their columns, newest first, and whether each is `settled`."""
    connection = connect(home)
    return _chosen(connection, choice).to_arrow_table()


def rejects_of(home: Home, source: str) -> list[dict[str, Any]]:
    """All rejects of one object, newest first. Raises InvalidSetting, which says what it is, when it is none."""
    connection = connect(home)
    found = _chosen(connection, Choice(sources=(source,), with_settled=True)).to_arrow_table().to_pylist()
    if not found:
        _explain_unknown(connection, [source])
    return list(found)


def standing(home: Home, row: Mapping[str, Any]) -> Standing:
    """Where the version that a reject row tells of is now. Raises StorageUnavailable."""
    known = home.landing_of(row["source"])
    if known is None:
        return Standing("unknown", f"it does not lie below {home.landing.uri}; name its landing with --landing")
    landing, key = known
    landed = LandedObject(key, row["bytes"], row["etag"], row["arrived_at"])
    try:
        found = stat_object(landing, landed.key)
        if found is not None and found.etag == landed.etag:
            return Standing("landing")
        if stat_object(home.archive, archived_name(landed)) is not None:
            return Standing("archive", home.archive.uri_of(archived_name(landed)))
    except StorageRefused as refused:
        return Standing("unknown", str(refused).rstrip("."))
    return Standing("gone") if found is None else Standing("replaced", found.etag)


def retryable(home: Home, choice: Choice) -> Retryable:
    """What of a choice the stream can be asked to try again: all reject rows of the versions that are chosen.

    Raises InvalidSetting for a source that has no reject, HomeInUse while an erasure is not finished, StateDamaged,
    StorageUnavailable.
    """
    erasures_begun = check_no_erasure_unfinished(home)
    connection = connect(home)
    if choice.sources:
        known = _chosen(connection, Choice(sources=choice.sources, with_settled=True)).to_arrow_table()
        if unknown := sorted(set(choice.sources) - set(known["source"].to_pylist())):
            _explain_unknown(connection, unknown)
    found = _chosen(connection, replace(choice, with_settled=True)).to_arrow_table().to_pylist()
    chosen = [row for row in found if not row["settled"]]
    below = f"{home.landing.source}/"
    elsewhere = next((row["source"] for row in chosen if not row["source"].startswith(below)), None)
    ours = [row for row in chosen if row["source"].startswith(below)]
    asked = _asked_for(home)
    retries = {_retry(row, below): row["reason"] for row in _all_of(connection, ours)}
    fresh = {retry: reason for retry, reason in retries.items() if retry not in asked}
    return Retryable(
        tuple(fresh),
        Counter(fresh.values()),
        len(found) - len(chosen),
        len(retries) - len(fresh),
        elsewhere,
        erasures_begun,
    )


def are_open(home: Home, retries: Sequence[Retry]) -> bool:
    """Whether some of what was asked for is not planned, or planned and not committed."""
    rows = {retry.row(home.landing) for retry in retries}
    if not existing_rejects(home, rows):
        return False
    if set(retries) & _asked_for(home):
        return True
    plans = read_plans(home, after=committed_batch(open_table(home, REJECT_ROWS)))
    return any(retried_rows(home, plan) & rows for plan in plans)


def retry_outcomes(home: Home, retries: Sequence[Retry]) -> dict[str, int]:
    """What the objects of some retries are now, counted: `photo`, or the reasons they are rejected for."""
    connection = connect(home)
    versions = {(home.landing.source_of(one.landed.key), one.landed.etag) for one in retries}
    connection.register("versions", _columns(("source", "etag"), versions))
    return dict(
        connection.sql(
            "SELECT became, count(*) FROM ("
            "SELECT source, etag, 'photo' AS became FROM features UNION SELECT source, etag, reason FROM rejects r "
            "ANTI JOIN features USING (source, etag)) SEMI JOIN versions USING (source, etag) GROUP BY 1 ORDER BY 1"
        ).fetchall()
    )


def waiting(home: Home) -> int:
    """How many rejects are asked for and not planned yet. Raises StateDamaged, StorageUnavailable."""
    return len(_asked_for(home))


def _asked_for(home: Home) -> set[Retry]:
    requests = (read_request(home, name) for name in list_requests(home))
    return {retry for request in requests if request is not None for retry in request.retries}


def _retry(row: Mapping[str, Any], below: str) -> Retry:
    visible_at = row["first_visible_at"]
    landed = LandedObject(
        key=row["source"].removeprefix(below),
        size_bytes=row["bytes"],
        etag=row["etag"],
        arrived_at=row["arrived_at"].astimezone(UTC),
        first_visible_at=None if visible_at is None else visible_at.astimezone(UTC),
    )
    return Retry(landed, row["batch"], row["ingest_date"])


def _chosen(connection: duckdb.DuckDBPyConnection, choice: Choice) -> duckdb.DuckDBPyRelation:
    connection.register("wanted", _columns(("source",), ((source,) for source in choice.sources)))
    return connection.sql(
        f"SELECT * FROM ({_WITH_SETTLED}) WHERE ($reason IS NULL OR reason = $reason) "
        "AND ($since IS NULL OR ingest_date >= $since) AND (NOT settled OR $with_settled) "
        "AND ($all OR source IN (SELECT source FROM wanted)) ORDER BY ingested_at DESC, source",
        params={
            "reason": None if choice.reason is None else str(choice.reason),
            "since": choice.since,
            "with_settled": choice.with_settled,
            "all": not choice.sources,
        },
    )


def _all_of(connection: duckdb.DuckDBPyConnection, chosen: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    connection.register("versions", _columns(("source", "etag"), {(row["source"], row["etag"]) for row in chosen}))
    found = connection.sql("SELECT * FROM rejects SEMI JOIN versions USING (source, etag) ORDER BY arrived_at, source")
    return list(found.to_arrow_table().to_pylist())


def _explain_unknown(connection: duckdb.DuckDBPyConnection, sources: Sequence[str]) -> None:
    found = connection.execute("SELECT batch FROM features WHERE source IN (SELECT unnest(?))", [list(sources)])
    batch = found.fetchone()
    if batch is not None:
        raise InvalidSetting(f"{sources[0]} is no reject: it is a photo since batch {batch[0]}.")
    raise InvalidSetting(f"No reject has the source {sources[0]}; `fruits rejects list` shows those there are.")


def _columns(names: Sequence[str], rows: Iterable[tuple[str, ...]]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], schema=pa.schema([(name, pa.string()) for name in names])
    )


_WITH_SETTLED = """
    SELECT r.*, coalesce(f.batch > r.batch, FALSE) AS settled FROM rejects r LEFT JOIN (
        SELECT source, max(batch) AS batch FROM features SEMI JOIN rejects USING (source) GROUP BY source
    ) f USING (source)
"""
