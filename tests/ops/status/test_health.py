"""What makes a home unhealthy, what is only advice, and that the thresholds are those of the alarms."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bootstrap.aws.template import read_template
from ops.share import share_of
from ops.status import health
from ops.status.health import assess_health
from ops.status.queue_status import QueueStatus
from ops.status.status import LastBatch, ModelStatus, Pace, Status, StreamStatus, Switch, TableStatus, Today
from store.state.heartbeat import MOVED_WITHIN
from store.tables.photo_counts import PhotosOfNetwork
from streaming.discovery.arrivals import Backlog

NOW = datetime(2026, 10, 3, 12, tzinfo=UTC)
MIN_ROWS = 1000
RUNNING = StreamStatus("running", "host, process 7", NOW - timedelta(hours=3), NOW, NOW, 2.0, "keep")
STOPPED = replace(RUNNING, state="stopped")
MODEL = ModelStatus(3, "abc", NOW - timedelta(days=1), 64, 0.9, 2000, 100, 2, 0.1)
QUEUE = QueueStatus("https://sqs.eu-west-3.amazonaws.com/1/q", 0, 0, 0, 0, 0, 0)
SOUND = Status(
    home="s3://bucket/home",
    looked_at=NOW,
    stream=RUNNING,
    last_batch=LastBatch(9, NOW, 5, 0, {}),
    unfinished_batches=[],
    backlog=Backlog(),
    backlog_as_of=NOW,
    pace=Pace(1.0, 300.0),
    today=Today(NOW.date(), 500, 3, {"empty": 3}),
    queue=QUEUE,
    featurizer="abc",
    weights="imagenet",
    pca=Switch(3, None, 0),
    models=[MODEL],
    tables=[TableStatus(name, 2100, 10, 10_000, 9, 10) for name in ("features", "projections", "rejects")],
    compactable_files=0,
    broken=None,
)
NEVER = replace(SOUND, stream=None, last_batch=None, models=[], pca=Switch(None, None, 0))


def _waiting(age: timedelta, files: int = 12) -> Backlog:
    return Backlog(files, 3_400_000, NOW - age)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (SOUND, "Healthy: the stream runs and nothing waits."),
        (replace(SOUND, stream=STOPPED), "Healthy: no stream runs and nothing waits."),
        (
            replace(SOUND, backlog=_waiting(timedelta(minutes=29))),
            "Healthy: the stream runs and 12 photos (3.4 MB) wait, the oldest for 29 min.",
        ),
        (
            replace(SOUND, backlog=replace(_waiting(timedelta(seconds=3), files=1), at_least=True)),
            "Healthy: the stream runs and 1 photo or more (3.4 MB) wait, the oldest for 3 s.",
        ),
        (NEVER, "Healthy: nothing has run on s3://bucket/home yet and nothing waits."),
    ],
)
def test_photos_flow_or_nothing_waits(found: Status, verdict: str) -> None:
    assert (assess_health(found, MIN_ROWS).healthy, assess_health(found, MIN_ROWS).verdict) == (True, verdict)


@pytest.mark.parametrize(
    ("found", "name", "does"),
    [
        (replace(SOUND, stream=replace(RUNNING, state="silent")), "stream_silent", "start `fruits stream` again"),
        (
            replace(SOUND, stream=STOPPED, backlog=_waiting(timedelta(seconds=1))),
            "stream_stopped",
            "no stream runs and 12 photos (3.4 MB) wait, the oldest for 1 s; start `fruits stream`.",
        ),
        (replace(NEVER, backlog=_waiting(timedelta(0))), "stream_stopped", "start `fruits stream`"),
        (
            replace(SOUND, stream=replace(STOPPED, error="StorageRefused"), backlog=_waiting(timedelta(seconds=1))),
            "stream_failed",
            "the stream ended with an error (StorageRefused) at 2026-10-03 12:00:00 UTC; 12 photos (3.4 MB) wait, the "
            "oldest for 1 s; its last words say why, and `fruits stream` goes on where it was.",
        ),
        (
            replace(SOUND, stream=replace(RUNNING, moved_at=NOW - MOVED_WITHIN - timedelta(seconds=3))),
            "stream_stuck",
            "nothing moved in it for 10 min",
        ),
        (replace(SOUND, backlog=_waiting(timedelta(minutes=31))), "backlog_old", "more than 30 min"),
        (replace(SOUND, queue=replace(QUEUE, dead_letters=2)), "dead_letters", "2 messages of S3"),
        (
            replace(SOUND, broken=["1 row is lost.", "2 are doubled."]),
            "promises_broken",
            "1 row is lost. And 1 more kind of broken promises. Find out who changed the tables, and restore them.",
        ),
        (
            replace(SOUND, broken=["2 rows have no projection in it."]),
            "promises_broken",
            "it. Run `fruits reproject`.",
        ),
    ],
)
def test_what_is_wrong_says_what_to_do(found: Status, name: str, does: str) -> None:
    verdict = assess_health(found, MIN_ROWS)
    assert not verdict.healthy
    assert verdict.verdict.startswith("Not healthy: ")
    assert does in verdict.verdict
    assert [finding.name for finding in verdict.findings if finding.weight == "wrong"] == [name]


def test_a_stream_that_seldom_looks_is_not_stuck_in_between() -> None:
    seldom = replace(RUNNING, trigger_s=3600.0, moved_at=NOW - timedelta(minutes=50))
    assert assess_health(replace(SOUND, stream=seldom), MIN_ROWS).healthy


def test_a_stream_of_an_earlier_version_is_not_taken_for_stuck() -> None:
    assert assess_health(replace(SOUND, stream=replace(RUNNING, moved_at=None, trigger_s=None)), MIN_ROWS).healthy


NEXT = replace(MODEL, version=4, fitted_at=NOW - timedelta(minutes=61))


@pytest.mark.parametrize(
    ("found", "name", "does"),
    [
        (replace(SOUND, today=Today(NOW.date(), 179, 20, {})), "many_rejects", "10% of today's uploads"),
        (replace(SOUND, accuracy=share_of(149, 300)), "low_accuracy", "Only 50% of 300 answers were right"),
        (replace(SOUND, unknown=share_of(21, 100)), "many_unknown", "21% of today's photos show what"),
        (replace(SOUND, queue=replace(QUEUE, unknown=1)), "unknown_messages", "1 message of the queue"),
        (replace(SOUND, queue=QueueStatus(QUEUE.url, refused="There is no queue.")), "queue_unseen", "no queue."),
        (replace(SOUND, stream=STOPPED, unfinished_batches=[9, 10]), "unfinished_batches", "9, 10"),
        (NEVER, "never_run", "check --home"),
        (replace(SOUND, models=[], pca=Switch(None, None, 0)), "pca_missing", "2,100 rows have no PCA yet"),
        (replace(SOUND, featurizer="new"), "pca_of_another_featurizer", "`fruits refit --reproject`"),
        (
            replace(SOUND, featurizer="new", networks=[PhotosOfNetwork("new", 420, 20, 400)]),
            "network_incomplete",
            "rows of 20 of 420 photos; run `fruits refeaturize`, then `fruits refit --reproject`",
        ),
        (
            replace(SOUND, served_featurizer="abc", networks=[PhotosOfNetwork("abc", 420, 400, 20)]),
            "network_incomplete",
            "run `fruits refeaturize`, then `fruits reproject`",
        ),
        (replace(SOUND, models=[MODEL, NEXT], pca=Switch(3, 4, 5)), "pca_lacking", "5 batches lack it"),
        (replace(SOUND, models=[replace(MODEL, rows_since=2000)]), "pca_old", "2,000 came since"),
        (
            replace(SOUND, models=[replace(MODEL, rows_since=200, fitted_at=NOW - timedelta(days=8))]),
            "pca_old",
            "8 days old",
        ),
        (replace(SOUND, uncleared=2), "uncleared", "2 photos could not be cleared away; see that the stream may copy"),
        (
            replace(SOUND, uncopied={"corrupt": 1, "too_old": 2}),
            "uncopied",
            "3 photos of earlier batches cannot be copied (1 corrupt, 2 too_old), so the originals stay",
        ),
        (replace(SOUND, compactable_files=6001), "small_files", "`fruits maintain`"),
    ],
)
def test_advice_does_not_fail(found: Status, name: str, does: str) -> None:
    verdict = assess_health(found, MIN_ROWS)
    assert verdict.healthy
    advice = {finding.name: finding.sentence for finding in verdict.findings}
    assert does in advice[name]


@pytest.mark.parametrize(
    "found",
    [
        replace(SOUND, today=Today(NOW.date(), 0, 19, {})),
        replace(SOUND, today=Today(NOW.date(), 200, 20, {})),
        replace(SOUND, unfinished_batches=[10]),
        replace(SOUND, models=[MODEL, replace(NEXT, fitted_at=NOW)], pca=Switch(3, 4, 5)),
        replace(SOUND, models=[replace(MODEL, rows_since=0, fitted_at=NOW - timedelta(days=80))]),
        replace(SOUND, models=[replace(MODEL, rows_since=1999)]),
        replace(SOUND, tables=[replace(SOUND.tables[0], rows=MIN_ROWS - 1)], models=[], pca=Switch(None, None, 0)),
    ],
)
def test_what_is_as_it_should_be_needs_no_advice(found: Status) -> None:
    assert assess_health(found, MIN_ROWS).findings == ()


def _alarm(name: str) -> dict[str, Any]:
    return dict(read_template().sections["Resources"][name]["Properties"])


def test_the_thresholds_are_those_of_the_alarms() -> None:
    assert _alarm("BacklogOld")["Threshold"] == health.OLDEST_MAY_WAIT.total_seconds()
    assert _alarm("ManyRejects")["Threshold"] == 100 * health.MANY_REJECTS
    assert f"rejects >= {health.FEWEST_REJECTS}," in _alarm("ManyRejects")["Metrics"][0]["Expression"]
    assert _alarm("DeadLetters")["Threshold"] == 0
    assert _alarm("LowAccuracy")["Threshold"] == 100 * health.LOW_ACCURACY
    assert f"answers >= {health.FEWEST_ANSWERS}," in _alarm("LowAccuracy")["Metrics"][0]["Expression"]
    assert _alarm("ManyUnknown")["Threshold"] == 100 * health.MANY_UNKNOWN
    assert f"named >= {health.FEWEST_NAMED}," in _alarm("ManyUnknown")["Metrics"][0]["Expression"]
