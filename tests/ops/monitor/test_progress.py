"""What a person sees of a running stream: a panel on a terminal, lines elsewhere, and a last word of what was done."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from ops.monitor import progress
from ops.monitor.plain_lines import PlainLines
from ops.monitor.progress import LivePanel
from ops.monitor.run_stats import RunStats
from store.home import Home
from store.models.pca_models import begin_switch, finish_switch
from store.objects.operations import overwrite
from store.settings import Settings, load_settings
from store.state.plans import BatchCounters
from streaming.batches_in_flight import BatchInHand
from streaming.discovery.arrivals import Backlog
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener, stream_in
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.pictures import jpeg, text_file

MakeSettings = Callable[..., Settings]
REPORT = BatchReport(1, 30, (), {"empty": 2}, False, 0.0, 2.0, 0.4, BatchCounters(), 3.0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return load_settings(home=str(tmp_path / "home")).places()


def _screen(shown: StringIO) -> str:
    """What was drawn, without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())


def _last_frame(shown: StringIO) -> str:
    return _screen(shown).rpartition("╭─")[2]


def _until(is_so: Callable[[], bool]) -> None:
    gives_up_at_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < gives_up_at_s
        time.sleep(0.02)


def test_the_panel_tells_how_many_photos_could_not_be_cleared_away(home: Home) -> None:
    shown = StringIO()
    panel = LivePanel(Console(file=shown, force_terminal=True, width=100), "fruits stream", home)
    with panel:
        panel.watcher.on_planner_report(PlannerReport(Backlog()))
    assert "cleared away" not in shown.getvalue()
    with panel:
        panel.watcher.on_planner_report(PlannerReport(Backlog(), uncleared=2))
        panel.watcher.on_planner_report(PlannerReport(Backlog(), uncleared=2, to_copy=3, uncopied={"corrupt": 1}))
    assert "2 photos could not be cleared away" in shown.getvalue()
    assert "3 older photos to copy and delete" in shown.getvalue()
    assert "1 older photo cannot be copied" in shown.getvalue()


def test_the_pace_does_not_sink_while_nothing_comes() -> None:
    stats = RunStats()
    assert stats.photos_per_s is None
    stats.on_stage(1, "plan", 2.0)
    stats.on_batch(REPORT)
    at_its_end = stats.photos_per_s
    assert at_its_end == pytest.approx(15, rel=0.05)
    time.sleep(0.5)
    assert stats.photos_per_s == at_its_end
    stats.on_stage(2, "plan", 2.0)
    assert stats.photos_per_s == at_its_end
    stats.on_batch(replace(REPORT, batch=2, photos=90))
    assert stats.photos_per_s == pytest.approx(30, rel=0.05)
    assert stats.totals().photos_per_s == pytest.approx(30, rel=0.05)


def test_batches_that_overlap_share_their_time_and_what_a_run_before_worked_has_none() -> None:
    stats = RunStats()
    stats.on_stage(1, "plan", 4.0)
    stats.on_stage(2, "plan", 1.0)
    stats.on_batch(replace(REPORT, photos=40))
    stats.on_batch(replace(REPORT, batch=2, photos=40))
    stats.on_stage(3, "plan", 0.0)
    stats.on_batch(replace(REPORT, batch=3, photos=500, replayed=True))
    assert stats.photos_per_s == pytest.approx(20, rel=0.05)
    totals = stats.totals()
    assert (totals.batches, totals.photos, totals.rejects) == (3, 580, Counter(empty=6))
    assert totals.photos_per_s == pytest.approx(20, rel=0.05)


def test_the_pace_is_of_the_last_minute_of_work() -> None:
    stats = RunStats()
    for batch in range(1, 5):
        stats.on_stage(batch, "plan", 40.0)
        stats.on_batch(replace(REPORT, batch=batch, photos=40 * batch))
    assert stats.photos_per_s == pytest.approx(3.5, rel=0.01)
    assert stats.totals().photos_per_s == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize("width", [40, 80])
def test_the_panel_shows_idle_the_landing_the_served_version_and_how_far_a_batch_is(
    home: Home, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(progress, "SERVED_POLL_S", 0.05)
    shown = StringIO()
    panel = LivePanel(Console(file=shown, force_terminal=True, width=width, height=60), "fruits stream", home)
    in_hand: list[BatchInHand] = [BatchInHand(7, 1200, 340, 4.2)]
    with panel:
        watcher = panel.watcher
        watcher.on_start(lambda: tuple(in_hand))
        watcher.on_planner_report(PlannerReport(Backlog()))
        _until(lambda: "PCA none" in _last_frame(shown))
        assert "340 of 1,200 files, 4 s" in _last_frame(shown)
        assert "photos/s –" in _last_frame(shown)
        in_hand.clear()
        finish_switch(home, begin_switch(home, 7), "abc")
        begin_switch(home, 8)
        _until(lambda: "PCA v7, next v8" in _last_frame(shown))
        _until(lambda: "photos/s idle" in _last_frame(shown))
        watcher.on_stage(1, "plan", 2.0)
        watcher.on_batch(REPORT)
        _until(lambda: re.search(r"photos/s 1[45]\.\d, idle", _last_frame(shown)) is not None)
        unwrapped = re.sub(r"\s*│\s*", "", _last_frame(shown))
        assert f"landing{home.landing.uri}" in unwrapped.replace(" ", "")
        assert all(len(line) <= width for line in _screen(shown).splitlines())
    assert re.search(
        r"Done: 30 photos and 2 rejects in 1 batch, in \d+ s; 1[45]\.\d photos/s while at work\.",
        _screen(shown).splitlines()[-1],
    )


def test_the_last_picture_shows_the_version_that_is_served_at_the_end(home: Home) -> None:
    shown = StringIO()
    panel = LivePanel(Console(file=shown, force_terminal=True, width=80), "fruits stream", home)
    with panel:
        _until(lambda: "PCA none" in _last_frame(shown))
        finish_switch(home, begin_switch(home, 3), "abc")
    assert "PCA v3" in _last_frame(shown)


def test_a_served_version_that_cannot_be_read_is_said_once_and_stops_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SERVED_POLL_S", 0.05)
    overwrite(home.pca_models, "current/CURRENT.json", b"{")
    shown = StringIO()
    with LivePanel(Console(file=shown, force_terminal=True, width=80), "fruits stream", home) as panel:
        _until(lambda: "PCA unknown" in _last_frame(shown))
        time.sleep(0.5)
        panel.watcher.on_batch(REPORT)
        finish_switch(_repaired(home), begin_switch(home, 3), "abc")
        _until(lambda: "PCA v3" in _last_frame(shown))
    assert _screen(shown).count("The served PCA version cannot be read") == 1


def _repaired(home: Home) -> Home:
    overwrite(home.pca_models, "current/CURRENT.json", b'{"serving": null, "next": null}')
    return home


def test_how_far_a_batch_is_comes_from_its_tasks_and_a_task_that_runs_again_counts_once(
    local_settings: MakeSettings, spark: SparkSession, tmp_path: Path
) -> None:
    settings = local_settings()
    landing = settings.places().landing.directory / "kiwi"
    landing.mkdir(parents=True)
    photos = 40
    for n in range(photos):
        (landing / f"{n}.jpg").write_bytes(jpeg(seed=n, width_px=800, height_px=600))
    (landing / "crash.jpg").write_bytes(jpeg(seed=1) + SEGFAULT)
    (landing / "notes.jpg").write_bytes(text_file())
    looks: list[BatchInHand] = []
    over = threading.Event()
    asked: list[Callable[[], tuple[BatchInHand, ...]]] = []

    one_look = threading.Lock()

    def look_now() -> None:
        with one_look:
            looks.extend(asked[0]())

    def follow() -> None:
        while not over.is_set():
            look_now()
            time.sleep(0.01)

    def on_start(in_hand: Callable[[], tuple[BatchInHand, ...]]) -> None:
        asked.append(in_hand)
        threading.Thread(target=follow, daemon=True).start()

    reports: list[BatchReport] = []
    # The last look of a batch comes at the end of its work, however busy the machine is.
    watcher = StreamListener(reports.append, lambda _: None, lambda *_: look_now(), on_start)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    stream_in(spark, settings, True, threading.Event(), watcher, scratch)
    over.set()

    assert asked[0]() == ()
    for report in reports:
        outcomes = report.photos + sum(report.rejects.values())
        steps = [look.done for look in looks if look.batch == report.batch]
        assert steps == sorted(steps)
        assert {look.objects for look in looks if look.batch == report.batch} == {outcomes}
        assert steps[-1] == outcomes
    whole = max(reports, key=lambda report: report.photos).batch
    assert len({look.done for look in looks if look.batch == whole}) > 2


def test_where_no_panel_can_be_drawn_a_person_reads_sentences() -> None:
    shown = StringIO()
    with PlainLines(Console(file=shown, width=160)) as lines:
        lines.watcher.on_planner_report(PlannerReport(Backlog()))
        lines.watcher.on_stage(1, "plan", 0.0)
        lines.watcher.on_batch(REPORT)
    assert "Batch 1: 30 photos and 2 rejects in 2.4 s." in shown.getvalue()
    assert "Done: 30 photos and 2 rejects in 1 batch" in shown.getvalue()
    assert "{" not in shown.getvalue()


@pytest.mark.processes
@pytest.mark.parametrize("how", ["--drain", "ctrl-c"])
def test_a_stream_on_a_terminal_ends_with_what_it_did(local_settings: MakeSettings, how: str) -> None:
    settings = local_settings()
    landing = settings.places().landing.directory / "kiwi"
    landing.mkdir(parents=True)
    for n in range(3):
        (landing / f"{n}.jpg").write_bytes(jpeg(seed=n))
    (landing / "notes.jpg").write_bytes(text_file())
    command = [sys.executable, "-m", "ops", "stream", "--home", settings.home, "--settle", "0s"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*command, *([how] if how.startswith("--") else [])], stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    seen = ""
    try:
        with suppress(OSError):
            while part := os.read(leader, 65536):
                seen += part.decode(errors="replace")
                if how == "ctrl-c" and re.search(r"rejects \x1b\[[0-9;]*m1", seen):
                    process.send_signal(signal.SIGINT)
                    how = "is stopped"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert re.search(r"Done: 3 photos and 1 reject in \d batch(es)?, in \d+ s; [\d.]+ photos/s while at work\.", seen)


@pytest.mark.processes
def test_the_smallest_demo_works_and_speaks_to_people_in_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops", "demo", "--home", str(tmp_path / "home"), "--photos", "12"]
    done = subprocess.run([*command, "--weights", "untrained:7"], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "Version 1 is served." in done.stdout
    assert "It names no fruit." in done.stdout
    assert "Done: 8 photos and 4 rejects" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("{")] == []
