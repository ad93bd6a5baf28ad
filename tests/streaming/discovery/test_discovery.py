"""What lands is found once, oldest first, whatever its name."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops.status.status import read_status
from store.errors import StorageUnavailable
from store.objects.location import StorageLocation
from store.settings import Settings, load_settings
from store.state.plans import Plan
from streaming.discovery.discovery import Discovery
from streaming.discovery.processed_index import ProcessedIndex
from tests.conftest import REGION, S3_PAGE_KEYS
from tests.support.ingested import ingest
from tests.support.keys import IGNORED_KEYS, ODD_KEYS
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, outcomes, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]


def _drop(landing: Path, key: str, body: bytes, mtime_s: float | None = None) -> Path:
    path = landing / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


@pytest.fixture
def discover(tmp_path: Path) -> Iterator[Callable[..., Discovery]]:
    """Makes a discovery over a landing, with nothing planned before unless `seen` says so."""
    begun: list[Discovery] = []

    def discovery(landing: StorageLocation, queue: str | None = None, **watched: object) -> Discovery:
        home = replace(load_settings(home=str(tmp_path / "home")).places(), landing=landing)
        seen = ProcessedIndex(tmp_path / f"seen-{len(begun)}.sqlite")
        rules = {"backfill": timedelta(hours=6), "drain": False, "only_since": None, "settle": timedelta(0)} | watched
        found = Discovery(home, seen, queue=queue, **rules)
        begun.append(found)
        found.start()
        return found

    yield discovery
    for found in begun:
        found.close()


def _waiting(discovery: Discovery) -> list[str]:
    """The keys that wait after the listing under way and, if one may begin, one more."""
    discovery.poll()
    discovery.poll()
    # On a busy machine a listing hands over its pages before it is complete.
    _wait_until(lambda: not discovery.backlog.at_least or bool(discovery.poll()))
    return [landed.key for landed in discovery.oldest(100_000)]


def _plan_all(discovery: Discovery) -> None:
    objects = tuple(discovery.oldest(100_000))
    now = datetime.now(UTC)
    discovery.planned(Plan(1, "nonce", now, now.date(), "unused", "", "unused", objects))


def test_odd_names_on_disk_become_rows_under_their_own_names(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings()
    landing = settings.places().landing.directory
    for number, key in enumerate([*ODD_KEYS, "new\nline.jpg", "bell\a.jpg"]):
        _drop(landing, key, jpeg(seed=number))
    for key in IGNORED_KEYS:
        _drop(landing, key, jpeg(seed=1))
    (landing / os.fsdecode(b"not-utf8-\xff.jpg")).write_bytes(jpeg(seed=50))

    drain(settings)

    keys = {outcome["key"] for outcome in outcomes(settings) if outcome["reason"] is None}
    assert keys == {*ODD_KEYS, "new\nline.jpg", "bell\a.jpg"}
    rejects = rows(settings, "SELECT source, reason FROM rejects")
    assert rejects == [{"source": settings.places().landing.uri_of(r"not-utf8-\udcff.jpg"), "reason": "unreadable"}]
    assert read_status(settings.places(), verify=True).broken == []
    assert drain(settings).reports == []


def test_an_s3_listing_of_several_pages_is_complete(
    s3: "S3Client", bucket: str, s3_server: str, discover: Callable[..., Discovery]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = [f"landing/{number}.jpg" for number in range(S3_PAGE_KEYS + 10)]
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    discovery = discover(StorageLocation.at(f"s3://{bucket}/landing", s3_server, REGION))
    assert len(_waiting(discovery)) == S3_PAGE_KEYS + 10
    assert discovery.backlog.files == S3_PAGE_KEYS + 10


def test_oldest_first(tmp_path: Path, discover: Callable[..., Discovery]) -> None:
    now_s = time.time()
    for age_s in (10, 3000, 200, 40):
        # They came in this order, whatever times they brought along.
        _drop(tmp_path / "landing", f"{age_s}.jpg", b"x", now_s - age_s)
        time.sleep(0.02)
    assert _waiting(discover(StorageLocation.at(str(tmp_path / "landing")))) == [
        "10.jpg",
        "3000.jpg",
        "200.jpg",
        "40.jpg",
    ]


def test_a_file_still_being_written_is_not_taken(tmp_path: Path, discover: Callable[..., Discovery]) -> None:
    landing = tmp_path / "landing"
    _drop(landing, "done.jpg", b"x")
    growing = _drop(landing, "growing.jpg", b"x")
    stop = threading.Event()

    def write() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stop.wait(0.02):
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        discovery = discover(StorageLocation.at(str(landing)))
        assert _waiting(discovery) == ["done.jpg"]
    finally:
        stop.set()
        writer.join()
    _plan_all(discovery)
    assert _waiting(discovery) == ["growing.jpg"]


def test_only_a_new_version_is_a_new_arrival(tmp_path: Path, discover: Callable[..., Discovery]) -> None:
    photo = _drop(tmp_path / "landing", "a.jpg", b"one")
    discovery = discover(StorageLocation.at(str(tmp_path / "landing")))
    assert _waiting(discovery) == ["a.jpg"]
    _plan_all(discovery)
    assert _waiting(discovery) == []
    photo.write_bytes(b"another")
    assert _waiting(discovery) == ["a.jpg"]


def test_of_a_photo_that_is_replaced_before_it_is_planned_only_the_new_version_waits(
    tmp_path: Path, discover: Callable[..., Discovery]
) -> None:
    photo = _drop(tmp_path / "landing", "a.jpg", b"one")
    discovery = discover(StorageLocation.at(str(tmp_path / "landing")))
    _waiting(discovery)
    photo.write_bytes(b"another")
    _wait_until(lambda: (discovery.poll(), [one.size_bytes for one in discovery.oldest(10)] == [7])[1])
    photo.unlink()
    _wait_until(lambda: (discovery.poll(), discovery.backlog.files == 0)[1])


def test_a_failed_listing_stops_and_says_why(
    monkeypatch: pytest.MonkeyPatch, bucket: str, s3: "S3Client", s3_server: str, discover: Callable[..., Discovery]
) -> None:
    s3.put_object(Bucket=bucket, Key="landing/a.jpg", Body=b"x")
    discovery = discover(StorageLocation.at(f"s3://{bucket}/landing", s3_server, REGION))
    assert _waiting(discovery) == ["a.jpg"]
    _plan_all(discovery)
    s3.delete_object(Bucket=bucket, Key="landing/a.jpg")
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(StorageUnavailable, match=r"Cannot list .*NoSuchBucket"):
        _waiting(discovery)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.processes
def test_a_restart_and_a_changed_landing_take_nothing_twice(
    local_settings: MakeSettings, drain: Drain, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _drop(first, "a.jpg", jpeg(seed=1))
    _drop(first, "kept.jpg", jpeg(seed=4))
    _drop(second, "b.jpg", jpeg(seed=2))
    ingest(local_settings(landing=str(first)))
    assert drain(local_settings(landing=str(second))).photos == 1
    _drop(first, "a.jpg", jpeg(seed=3))
    assert drain(local_settings(landing=str(first))).photos == 1
    assert len(rows(local_settings(), "SELECT * FROM features")) == 4


def test_every_batch_keeps_to_the_caps(local_settings: MakeSettings, drain: Drain) -> None:
    small, large = jpeg(seed=1), jpeg(seed=1, width_px=960, height_px=720)
    settings = local_settings(max_files=3, max_bytes=str(len(large) - 1))
    for number, body in enumerate([small, small, small, small, large, small]):
        _drop(settings.places().landing.directory, f"{number}.jpg", body)
        # What came first is planned first.
        time.sleep(0.02)
    assert [report.photos for report in drain(settings).reports] == [3, 1, 1, 1]
