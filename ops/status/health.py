"""Whether photos flow, and what to do if not: one sentence for each thing that is wrong or could be better."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ops.status.status import Status
from ops.wording import duration, quantity, size
from store.state.heartbeat import MOVED_WITHIN

# As the alarm BacklogOld of the stack.
OLDEST_MAY_WAIT = timedelta(minutes=30)
# As the alarm ManyRejects of the stack: of few uploads a few bad ones say nothing.
FEWEST_REJECTS = 20
MANY_REJECTS = 0.10
# Refits are nightly where the stack schedules them: a week without one, while rows came, is an oversight.
PCA_IS_OLD_AFTER = timedelta(days=7)
PCA_ROWS_GREW = 0.10
# A version that was fitted on half of the rows or fewer need not wait for a week.
PCA_ROWS_DOUBLED = 1.0
# A reprojection reads all rows once; a switch that takes longer has nobody at work on it.
SWITCH_TAKES = timedelta(hours=1)
# A query opens each of them. A trigger of 2 s leaves at most 5400 in the three tables between two hourly maintenances.
MANY_COMPACTABLE_FILES = 6000
# As the alarms LowAccuracy and ManyUnknown of the stack: of few photos a share says little.
FEWEST_ANSWERS = 300
LOW_ACCURACY = 0.50
FEWEST_NAMED = 100
MANY_UNKNOWN = 0.20

_RESTORE = "Find out who changed the tables, and restore them."


@dataclass(frozen=True)
class Finding:
    """One thing to know; only what is `wrong` makes a home unhealthy. The sentence says what to do."""

    name: str
    weight: Literal["wrong", "advice"]
    sentence: str


@dataclass(frozen=True)
class Health:
    """The verdict in one sentence, and all findings, the wrong ones first."""

    healthy: bool
    verdict: str
    findings: tuple[Finding, ...]


def assess_health(status: Status, min_rows: int) -> Health:
    """What is wrong in a home with this status, and what could be better; a refit needs `min_rows` rows."""
    wrong = [Finding(name, "wrong", sentence) for name, sentence in _wrong(status)]
    advice = [Finding(name, "advice", sentence) for name, sentence in _advice(status, min_rows)]
    stream = status.stream
    if wrong:
        verdict = f"Not healthy: {wrong[0].sentence}"
    elif stream is not None and stream.state == "running":
        verdict = f"Healthy: the stream runs and {_waits(status)}."
    elif stream is None and status.last_batch is None:
        verdict = f"Healthy: nothing has run on {status.home} yet and {_waits(status)}."
    else:
        verdict = f"Healthy: no stream runs and {_waits(status)}."
    return Health(not wrong, verdict, (*wrong, *advice))


def _waits(status: Status) -> str:
    backlog = status.backlog
    if backlog.oldest_arrived_at is None:
        return "nothing waits"
    more = " or more" if backlog.at_least else ""
    photos, verb = quantity(backlog.files, "photo"), "waits" if backlog.files == 1 and not more else "wait"
    oldest = duration(status.looked_at - backlog.oldest_arrived_at)
    return f"{photos}{more} ({size(backlog.bytes)}) {verb}, the oldest for {oldest}"


def _wrong(status: Status) -> Iterator[tuple[str, str]]:
    stream, backlog, queue, now = status.stream, status.backlog, status.queue, status.looked_at
    is_running = stream is not None and stream.state == "running"
    if status.broken:
        yield ("promises_broken", _broken(status.broken))
    if stream is not None and stream.state == "silent":
        yield (
            "stream_silent",
            f"the stream ({stream.holder}) gave no sign for {duration(now - stream.last_sign_at)}: it was killed or "
            "cannot reach storage; start `fruits stream` again, it goes on where it was.",
        )
    elif stream is not None and stream.error is not None:
        yield (
            "stream_failed",
            f"the stream ended with an error ({stream.error}) at {stream.last_sign_at:%Y-%m-%d %H:%M:%S} UTC; "
            f"{_waits(status)}; its last words say why, and `fruits stream` goes on where it was.",
        )
    elif not is_running and backlog.files:
        yield "stream_stopped", f"no stream runs and {_waits(status)}; start `fruits stream`."
    # Both times are of the stream's own clock.
    still = stream.last_sign_at - stream.moved_at if stream and is_running and stream.moved_at else timedelta(0)
    if stream is not None and still > MOVED_WITHIN + timedelta(seconds=stream.trigger_s or 0):
        yield (
            "stream_stuck",
            f"the stream ({stream.holder}) lives, but nothing moved in it for {duration(still)}; "
            "end its process and start `fruits stream` again: nothing is lost.",
        )
    if is_running and backlog.oldest_arrived_at and now - backlog.oldest_arrived_at > OLDEST_MAY_WAIT:
        yield (
            "backlog_old",
            f"{_waits(status)}, which is more than {duration(OLDEST_MAY_WAIT)}; give the stream more cores, or wait if "
            "the backlog shrinks.",
        )
    if queue is not None and queue.dead_letters:
        yield (
            "dead_letters",
            f"{quantity(queue.dead_letters, 'message')} of S3 could not be settled and lie in the dead-letter queue; "
            "read them there, and delete them once their photos have rows: a listing finds these all the same.",
        )


def _broken(sentences: Sequence[str]) -> str:
    more = f" And {quantity(len(sentences) - 1, 'more kind')} of broken promises." if sentences[1:] else ""
    if "run it again" in sentences[0]:
        # Of an erasure that is not finished, which says itself what to do.
        return f"{sentences[0]}{more}"
    mend = "Run `fruits reproject`." if all("no projection" in sentence for sentence in sentences) else _RESTORE
    return f"{sentences[0]}{more} {mend}"


def _advice(status: Status, min_rows: int) -> Iterator[tuple[str, str]]:
    stream, queue, today = status.stream, status.queue, status.today
    if stream is None and status.last_batch is None:
        yield "never_run", "No stream has run here; check --home, or start `fruits stream`."
    if status.unfinished_batches and (stream is None or stream.state != "running"):
        batches = ", ".join(map(str, status.unfinished_batches))
        yield "unfinished_batches", f"Planned and not committed: {batches}; the next start finishes them first."
    outcomes = today.photos + today.rejects
    if today.rejects >= FEWEST_REJECTS and today.rejects > MANY_REJECTS * outcomes:
        share = today.rejects / outcomes
        yield "many_rejects", f"{share:.0%} of today's uploads could not be used; `fruits rejects` says why."
    if status.uncleared:
        yield (
            "uncleared",
            f"{quantity(status.uncleared, 'photo')} could not be cleared away; see that the stream may copy and delete "
            "in the landing: it tries again every hour.",
        )
    if status.uncopied:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(status.uncopied.items()))
        yield (
            "uncopied",
            f"{quantity(sum(status.uncopied.values()), 'photo')} of earlier batches cannot be copied ({reasons}), so "
            "the originals stay in the landing; move away what you want to keep of them.",
        )
    if queue is not None and queue.unknown:
        yield (
            "unknown_messages",
            f"{quantity(queue.unknown, 'message')} of the queue had an unknown shape and were left to its redrive "
            "policy; look at what else writes to the queue.",
        )
    if queue is not None and queue.refused:
        yield "queue_unseen", f"The queue cannot be seen: {queue.refused}"
    yield from _advice_on_networks(status)
    yield from _advice_on_pca(status, min_rows)
    yield from _advice_on_names(status)
    if status.compactable_files > MANY_COMPACTABLE_FILES:
        files = f"{status.compactable_files:,} small files"
        yield "small_files", f"{files} could be few large ones; run `fruits maintain`, best every hour."


def _advice_on_networks(status: Status) -> Iterator[tuple[str, str]]:
    for network in status.networks:
        if network.lacking:
            then = "reproject" if network.featurizer == status.served_featurizer else "refit --reproject"
            sentence = f"{network}; run `fruits refeaturize`, then `fruits {then}`."
            yield "network_incomplete", sentence


def _advice_on_pca(status: Status, min_rows: int) -> Iterator[tuple[str, str]]:
    by_version = {model.version: model for model in status.models}
    coming = by_version.get(status.pca.next) if status.pca.next else None
    newest = coming or (by_version.get(status.pca.serving) if status.pca.serving else None)
    rows = next(table.rows for table in status.tables if table.name == "features")
    if rows < min_rows:
        # A refit would be refused.
        return
    if newest is None:
        yield "pca_missing", f"{rows:,} rows have no PCA yet; run `fruits refit --reproject`."
        return
    name, age = f"PCA version {newest.version}", status.looked_at - newest.fitted_at
    grew = newest.rows_since / max(newest.rows, 1)
    lack = {network.featurizer for network in status.networks if network.lacking}
    if newest.featurizer != status.featurizer and status.featurizer not in lack:
        sentence = "is of another featurizer than the newest; run `fruits refit --reproject`."
        yield "pca_of_another_featurizer", f"{name} {sentence}"
    elif coming is not None and age > SWITCH_TAKES:
        lacking = quantity(status.pca.lacking_batches, "batch", "batches")
        sentence = f"has been on its way for {duration(age)} and {lacking} lack it; run `fruits reproject`."
        yield "pca_lacking", f"{name} {sentence}"
    elif grew >= PCA_ROWS_DOUBLED or (grew >= PCA_ROWS_GREW and age > PCA_IS_OLD_AFTER):
        sentence = (
            f"{name} is {duration(age)} old, fitted on {newest.rows:,} rows, and {newest.rows_since:,} came since"
        )
        yield "pca_old", f"{sentence}; run `fruits refit --reproject`."


def _advice_on_names(status: Status) -> Iterator[tuple[str, str]]:
    accuracy, unknown = status.accuracy, status.unknown
    if accuracy.share is not None and accuracy.of >= FEWEST_ANSWERS and accuracy.share < LOW_ACCURACY:
        yield (
            "low_accuracy",
            f"Only {accuracy.share:.0%} of {accuracy.of:,} answers were right; `fruits query accuracy` tells of which "
            "labels, `fruits query suspects` which labels may be wrong.",
        )
    if unknown.share is not None and unknown.of >= FEWEST_NAMED and unknown.share > MANY_UNKNOWN:
        yield (
            "many_unknown",
            f"{unknown.share:.0%} of today's photos show what the served version does not know; `fruits query unknown` "
            "lists them: other things, or fruit in need of labels and of `fruits refit --reproject`.",
        )
