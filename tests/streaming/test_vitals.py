"""What a stream tells of itself: its newest batch, and its pace over the last minutes."""

from datetime import UTC, datetime

import pytest

from store.settings import load_settings
from store.state.heartbeat import Messages, Waiting
from store.state.plans import BatchCounters
from streaming import vitals
from streaming.discovery.arrivals import Backlog
from streaming.discovery.queue import QueueStats
from streaming.discovery.sqs import QueueDepth
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.vitals import StreamStats

NOW = datetime.now(UTC)
REPORT = BatchReport(1, 30, (), {"empty": 2, "corrupt": 1}, False, 0.1, 2.0, 0.4, BatchCounters(fetch_s=1.5), 3.0)


def test_before_anything_happened_nothing_is_known_but_the_settings() -> None:
    told = StreamStats(
        load_settings(home="s3://bucket/home", queue="https://q", trigger="5s", clean="archive")
    ).vitals()
    assert (told.settings.landing, told.settings.trigger_s) == ("s3://bucket/home/landing", 5.0)
    assert (told.settings.clean, told.settings.queue) == ("archive", "https://q")
    assert (told.waiting, told.messages, told.last_batch, told.photos) == (None, None, None, 0)


def test_it_tells_the_newest_of_all_it_heard_and_the_sum_of_the_last_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = StreamStats(load_settings(home="s3://bucket/home"))
    watch.on_planner_report(
        PlannerReport(Backlog(7, 700, NOW, at_least=True), queue=QueueStats(QueueDepth(3, 2, 1), 5, 4), made_at=NOW)
    )
    watch.on_batch(REPORT)
    watch.on_batch(REPORT)
    told = watch.vitals()
    assert told.waiting == Waiting(NOW, 7, 700, NOW, at_least=True)
    assert told.messages == Messages(held=5, unknown=4)
    assert (told.photos, told.rejects) == (60, 6)
    assert told.last_batch is not None
    assert (told.last_batch.batch, told.last_batch.photos, told.last_batch.rejects) == (1, 30, 3)
    assert told.last_batch.stages_s["work"] == 2.0
    assert told.last_batch.stages_s["fetch"] == 1.5

    monkeypatch.setattr(vitals, "WINDOW_S", 0.0)
    later = watch.vitals()
    assert (later.photos, later.last_batch) == (0, told.last_batch)
