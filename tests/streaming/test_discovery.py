"""What lands is found once, oldest first, whatever its name."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.errors import StorageUnavailable
from features.objects import Place
from features.settings import Settings
from ops.status import look
from streaming.discovery import Discovery
from tests.conftest import REGION
from tests.pictures import jpeg
from tests.stream_run import Run, outcomes, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

ODD_KEYS = [
    "two words/a photo.jpg",
    "plus+sign.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "crème/brûlée.jpg",
    "🍎/🍐.jpg",
    "a/b/c/d/e/f/g/h.jpg",
    "hash#and?mark.jpg",
    "star*[x]{y}~.jpg",
    "quote'\"s.jpg",
    "back\\slash.jpg",
    "e\u0301 combined.jpg",
]
IGNORED_KEYS = [
    *(".hidden.jpg", "_draft.jpg", ".folder/x.jpg", "_folder/x.jpg"),
    *("x.jpg.part", "x.jpg.tmp", "x.crdownload"),
]
NOT_ADDRESSABLE = ["double//slash.jpg", "dots/../up.jpg", "./here.jpg"]


def _drop(landing: Path, key: str, body: bytes, mtime_s: float | None = None) -> Path:
    path = landing / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


def _discovery(landing: Path) -> Discovery:
    discovery = Discovery(Place.at(str(landing)))
    discovery.start(lambda listed: {})
    return discovery


def _waiting(discovery: Discovery) -> list[str]:
    discovery.begin_listing()
    discovery.finish_listing(wait=True)
    return [landed.key for landed in discovery.waiting]


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
    assert look(settings.places(), verify=True).broken == []
    assert drain(settings).reports == []


def test_odd_keys_on_s3_become_rows_and_none_stops_the_stream(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client"
) -> None:
    settings = s3_settings()
    bucket = settings.home.removeprefix("s3://").split("/")[0]
    for number, key in enumerate(ODD_KEYS + IGNORED_KEYS + NOT_ADDRESSABLE):
        s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=jpeg(seed=number))
    s3.put_object(Bucket=bucket, Key="home/landing/folder/", Body=b"")

    drain(settings)

    found = outcomes(settings)
    assert {outcome["key"] for outcome in found if outcome["reason"] is None} == set(ODD_KEYS)
    assert {outcome["key"]: outcome["reason"] for outcome in found if outcome["reason"]} == dict.fromkeys(
        NOT_ADDRESSABLE, "unreadable"
    )
    assert look(settings.places(), verify=True).broken == []
    assert drain(settings).reports == []


def test_an_s3_listing_of_several_pages_is_complete(s3: "S3Client", bucket: str, s3_server: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = [f"landing/{number}.jpg" for number in range(1050)]
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    discovery = Discovery(Place.at(f"s3://{bucket}/landing", s3_server, REGION))
    discovery.start(lambda listed: {})
    assert discovery.backlog.files == 1050


def test_oldest_first(tmp_path: Path) -> None:
    now_s = time.time()
    for age_s in (10, 3000, 200, 40):
        _drop(tmp_path, f"{age_s}.jpg", b"x", now_s - age_s)
    assert _waiting(_discovery(tmp_path)) == ["3000.jpg", "200.jpg", "40.jpg", "10.jpg"]


def test_a_file_still_being_written_is_not_taken(tmp_path: Path) -> None:
    _drop(tmp_path, "done.jpg", b"x")
    growing = _drop(tmp_path, "growing.jpg", b"x")
    stop = threading.Event()

    def write() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stop.wait(0.02):
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        discovery = _discovery(tmp_path)
        assert _waiting(discovery) == ["done.jpg"]
    finally:
        stop.set()
        writer.join()
    assert sorted(_waiting(discovery)) == ["done.jpg", "growing.jpg"]


def test_only_a_new_version_is_a_new_arrival(tmp_path: Path) -> None:
    photo = _drop(tmp_path, "a.jpg", b"one")
    discovery = _discovery(tmp_path)
    discovery.planned(list(discovery.waiting))
    assert _waiting(discovery) == []
    photo.write_bytes(b"another")
    assert _waiting(discovery) == ["a.jpg"]


def test_what_is_gone_from_a_complete_listing_is_forgotten_and_only_then(tmp_path: Path) -> None:
    photo = _drop(tmp_path, "a.jpg", b"one", mtime_s=1_000_000)
    discovery = _discovery(tmp_path)
    discovery.planned(list(discovery.waiting))
    photo.unlink()
    assert _waiting(discovery) == []
    _drop(tmp_path, "a.jpg", b"one", mtime_s=1_000_000)
    assert _waiting(discovery) == ["a.jpg"]


def test_a_failed_listing_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, s3: "S3Client", s3_server: str
) -> None:
    monkeypatch.setattr("features.faults.RETRY_DEADLINE_S", 0.5)
    monkeypatch.setattr("streaming.discovery.LISTING_DEADLINE_S", 0.5)
    s3.put_object(Bucket=bucket, Key="landing/a.jpg", Body=b"x")
    discovery = Discovery(Place.at(f"s3://{bucket}/landing", s3_server, REGION))
    discovery.start(lambda listed: {})
    discovery.planned(list(discovery.waiting))
    s3.delete_object(Bucket=bucket, Key="landing/a.jpg")
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(StorageUnavailable):
        _waiting(discovery)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=bucket, Key="landing/a.jpg", Body=b"x")
    assert _waiting(discovery) == []


def test_a_restart_and_a_changed_landing_take_nothing_twice(
    local_settings: MakeSettings, drain: Drain, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _drop(first, "a.jpg", jpeg(seed=1))
    _drop(second, "b.jpg", jpeg(seed=2))
    for landing, photos in ((first, 1), (second, 1), (first, 0), (second, 0)):
        assert drain(local_settings(landing=str(landing))).photos == photos
    _drop(first, "a.jpg", jpeg(seed=3))
    assert drain(local_settings(landing=str(first))).photos == 1
    assert len(rows(local_settings(), "SELECT * FROM features")) == 3


def test_every_batch_keeps_to_the_caps(local_settings: MakeSettings, drain: Drain) -> None:
    photo = jpeg(seed=1)
    for number in range(7):
        _drop(local_settings().places().landing.directory, f"{number}.jpg", photo)
    by_files = drain(local_settings(max_files=3)).reports
    assert [report.photos for report in by_files] == [3, 3, 1]
    for number in range(7, 12):
        _drop(local_settings().places().landing.directory, f"{number}.jpg", photo)
    by_bytes = drain(local_settings(max_bytes=str(2 * len(photo) + 10), max_files=3)).reports
    assert [report.photos for report in by_bytes] == [2, 2, 1]
    _drop(local_settings().places().landing.directory, "large.jpg", photo)
    assert drain(local_settings(max_bytes="1B")).photos == 1
