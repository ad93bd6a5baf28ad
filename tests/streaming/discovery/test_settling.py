"""A file on disk is taken when its writer is done with it: at once if it looks whole, else when it stood still."""

import hashlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from ops.monitor.json_lines import JsonLines
from ops.monitor.progress import LivePanel
from ops.status.status import read_status
from store.objects.location import StorageLocation
from store.settings import Settings, load_settings
from streaming.discovery import settling
from streaming.discovery.discovery import Discovery, UnsettledFiles
from streaming.discovery.processed_index import ProcessedIndex
from streaming.service import stream_in
from tests.support.ingested import ingest
from tests.support.pictures import encoded, jpeg, pixels, text_file, truncated_jpeg
from tests.support.stream_run import Run, rows

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]
Discover = Callable[..., Discovery]

WHOLE = jpeg(seed=1)
HALF = WHOLE[: len(WHOLE) // 2]


def _drop(settings: Settings, key: str, body: bytes) -> Path:
    path = settings.places().landing.directory / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


@contextmanager
def _appending(path: Path) -> Iterator[None]:
    """A file that grows all the time."""
    stop = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.02):
                file.write(b"x")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(append)
        try:
            yield
        finally:
            stop.set()


def _wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    path = tmp_path / "landing"
    path.mkdir()
    return path


@pytest.fixture
def discover(tmp_path: Path, landing: Path) -> Iterator[Discover]:
    """Makes a discovery over the landing, with nothing planned before."""
    begun: list[Discovery] = []

    def discovery(settle_s: float, drain: bool = False) -> Discovery:
        home = replace(load_settings(home=str(tmp_path / "home")).places(), landing=StorageLocation.at(str(landing)))
        settle = timedelta(seconds=settle_s)
        backfill = timedelta(hours=6)
        seen = ProcessedIndex(tmp_path / f"seen-{len(begun)}.sqlite")
        found = Discovery(home, seen, queue=None, backfill=backfill, drain=drain, only_since=None, settle=settle)
        begun.append(found)
        found.start()
        return found

    yield discovery
    for found in begun:
        found.close()


def _keys(discovery: Discovery) -> list[str]:
    """What waits to be planned after three more looks."""
    for _ in range(3):
        discovery.poll()
        _wait_until(lambda: not discovery.backlog.at_least)
    return sorted(landed.key for landed in discovery.oldest(1000))


def _drained(discovery: Discovery) -> list[str]:
    """What waits to be planned once a drain awaits nothing more."""

    def is_complete() -> bool:
        discovery.poll()
        return not discovery.awaits_files

    _wait_until(is_complete)
    return sorted(landed.key for landed in discovery.oldest(1000))


def test_an_unfinished_file_is_taken_when_it_looks_whole_however_long_it_took(
    landing: Path, discover: Discover
) -> None:
    unfinished = {
        "half.jpg": HALF,
        "empty.jpg": b"",
        "zeros.jpg": WHOLE[:1000] + bytes(len(WHOLE) - 1000),
        "notes.jpg": text_file(),
    }
    for key, body in unfinished.items():
        (landing / key).write_bytes(body)
    (landing / "whole.jpg").write_bytes(WHOLE)
    discovery = discover(settle_s=3600)
    assert _keys(discovery) == ["whole.jpg"]
    (landing / "half.jpg").write_bytes(WHOLE)
    (landing / "zeros.jpg").write_bytes(WHOLE)
    assert _keys(discovery) == ["half.jpg", "whole.jpg", "zeros.jpg"]


def test_a_file_that_never_looks_whole_is_taken_when_it_stood_still(landing: Path, discover: Discover) -> None:
    (landing / "cut.jpg").write_bytes(HALF)
    discovery = discover(settle_s=2)
    began_s = time.monotonic()
    assert _keys(discovery) == []
    _wait_until(lambda: _keys(discovery) == ["cut.jpg"])
    assert time.monotonic() - began_s > 1.9
    # It stays where it is while others are planned first.
    assert _keys(discovery) == ["cut.jpg"]


def test_a_settle_of_nothing_holds_nothing_back(landing: Path, discover: Discover) -> None:
    (landing / "cut.jpg").write_bytes(HALF)
    (landing / "empty.jpg").touch()
    discovery = discover(settle_s=0)
    discovery.poll()
    assert discovery.backlog.files == 2


_opened: list[str] | None = None


def _note_open(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


def test_only_young_files_are_opened_and_an_unchanged_one_once(
    monkeypatch: pytest.MonkeyPatch, landing: Path, discover: Discover
) -> None:
    global _opened
    sys.addaudithook(_note_open)
    monkeypatch.setattr(settling, "CLOCKS_DIFFER_S", 0.5)
    for number in range(20):
        (landing / f"old {number}.jpg").write_bytes(HALF)
    os.utime(landing / "old 0.jpg", (2e9, 4e9))
    time.sleep(1.2)
    (landing / "young.jpg").write_bytes(HALF)
    _opened = []
    try:
        found = _keys(discover(settle_s=0.5))
    finally:
        opened, _opened = _opened, None
    assert set(found) >= {f"old {number}.jpg" for number in range(20)}
    assert [path for path in opened if "landing" in path] == [str(landing / "young.jpg")]


def test_a_drain_waits_for_what_stands_still_and_leaves_what_keeps_changing(landing: Path, discover: Discover) -> None:
    growing = landing / "growing.jpg"
    for path in (growing, landing / "cut.jpg", landing / "gone.jpg", landing / "pipe.jpg", landing / "loop.jpg"):
        path.write_bytes(HALF)
    (landing / "whole.jpg").write_bytes(WHOLE)
    with _appending(growing):
        discovery = discover(settle_s=1, drain=True)
        assert _keys(discovery) == ["whole.jpg"]
        for name in ("gone.jpg", "pipe.jpg", "loop.jpg"):
            (landing / name).unlink()
        os.mkfifo(landing / "pipe.jpg")
        (landing / "loop.jpg").symlink_to("loop.jpg")
        (landing / "later.jpg").write_bytes(HALF)
        assert _drained(discovery) == ["cut.jpg", "whole.jpg"]
        assert discovery.unsettled == UnsettledFiles(1, ("growing.jpg",))


@contextmanager
def _running(spark: SparkSession, settings: Settings, scratch: Path) -> Iterator[Run]:
    run, stop = Run(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(stream_in, spark, settings, False, stop, run.watcher, scratch)
        try:
            _wait_until(lambda: bool(run.news) or stream.done())
            yield run
        finally:
            stop.set()
        stream.result()


@pytest.mark.processes
@pytest.mark.parametrize("clean", ["archive", "delete"])
def test_a_file_written_in_two_halves_is_one_photo_and_stays_while_it_is_young(
    spark: SparkSession, local_settings: MakeSettings, tmp_path: Path, clean: str
) -> None:
    settings = local_settings(clean=clean, settle="3s")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with _running(spark, settings, scratch) as run:
        path = _drop(settings, "kiwi/slow.jpg", HALF)
        time.sleep(0.5)
        assert run.reports == []
        with path.open("ab") as file:
            file.write(WHOLE[len(HALF) :])
        changed_s = path.stat().st_ctime
        _wait_until(lambda: bool(run.reports))
        _wait_until(lambda: not path.exists())
        assert time.time() - changed_s >= 3

    [row] = rows(settings, "SELECT image_id FROM features")
    assert row["image_id"] == hashlib.sha256(WHOLE).hexdigest()
    assert rows(settings, "SELECT * FROM rejects") == []
    archived = [path.read_bytes() for path in settings.places().archive.directory.rglob("*.jpg")]
    assert archived == ([WHOLE] if clean == "archive" else [])


def test_whole_photos_are_taken_without_waiting_and_the_others_once_they_stood_still(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(settle="2s")
    for form in ("JPEG", "PNG", "WEBP", "HEIF", "AVIF"):
        _drop(settings, f"kiwi/{form}.photo", encoded(pixels(seed=2), form))
    for name, form in (("baseline", {}), ("progressive", {"progressive": True})):
        whole = encoded(pixels(seed=3), "JPEG", **form)
        _drop(settings, f"pear/{name}.jpg", whole[:-2])
        _drop(settings, f"pear/{name} without more.jpg", whole[:-30])
    _drop(settings, "pear/half.jpg", truncated_jpeg())
    began_s = time.monotonic()

    [first, second] = drain(settings).reports

    assert time.monotonic() - began_s > 1.9
    assert (first.photos, first.rejects) == (5, {})
    assert (second.photos, second.rejects) == (2, {"truncated": 3})
    in_time = rows(settings, "SELECT format FROM features WHERE batch = 1 ORDER BY 1")
    assert [row["format"] for row in in_time] == ["AVIF", "HEIF", "JPEG", "PNG", "WEBP"]
    later = rows(settings, "SELECT regexp_extract(source, '[^/]+$') AS name FROM features WHERE batch = 2 ORDER BY 1")
    assert [row["name"] for row in later] == ["baseline.jpg", "progressive.jpg"]
    assert read_status(settings.places(), verify=True).broken == []


def test_a_drain_that_leaves_a_file_names_it_on_the_terminal_and_tells_the_log_how_many(
    local_settings: MakeSettings, drain: Drain, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = local_settings(settle="300ms")
    growing = _drop(settings, "kiwi/growing.jpg", HALF)
    with _appending(growing):
        run = drain(settings)
    assert run.reports == []
    seen_on_terminal = io.StringIO()
    for progress in (
        LivePanel(
            Console(file=seen_on_terminal, force_terminal=True, width=200), "fruits stream", settings.locations()
        ),
        JsonLines(settings),
    ):
        with progress:
            progress.watcher.on_planner_report(run.news[-1])
    assert "Left for the next start, because it kept changing: kiwi/growing.jpg" in seen_on_terminal.getvalue()
    log = capsys.readouterr().out
    assert "growing" not in log
    [left] = [line for line in map(json.loads, log.splitlines()) if line["event"] == "left"]
    assert (left["level"], left["files"]) == ("warning", 1)

    growing.write_bytes(WHOLE)
    again = drain(settings)
    assert (again.photos, again.news[-1].unsettled) == (1, None)


def test_no_start_clears_a_young_file_away_and_a_later_one_does(local_settings: MakeSettings, drain: Drain) -> None:
    young = local_settings(clean="archive", settle="1h")
    path = _drop(young, "kiwi/a.jpg", WHOLE)
    ingest(local_settings())
    assert drain(young).reports == []
    assert path.exists()
    assert drain(local_settings(clean="archive")).reports == []
    assert not path.exists()
    assert len(list(young.places().archive.directory.rglob("*.jpg"))) == 1
