"""Photos in, features out."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from features.featurizer import Featurizer
from features.image import decode
from ops.status.status import read_status
from store.settings import Settings, load_settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS
from tests.support.crashing_decoder.sitecustomize import SEGFAULT, STUCK
from tests.support.pictures import encoded, jpeg, many_jpegs, pixels, scan_bomb, text_file
from tests.support.stream_run import Run, drop, photos_told, plan_all, rows, run_here, stream_process, with_featurizer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]


# What `decode` makes of each is in tests/features; here one drain gives all of them their rows.
PHOTOS = {
    "u1/kiwi/a.jpg": jpeg(seed=1, width_px=640, height_px=480),
    "u2/lime/b.png": encoded(pixels(seed=2), "PNG"),
    "u2/lime/c.webp": encoded(pixels(seed=3), "WEBP"),
    "elsewhere.jpg": jpeg(seed=4),
}
REJECTS = {
    "empty.jpg": (b"", "empty"),
    "notes.jpg": (text_file(), "not_an_image"),
    "heavy.jpg": (os.urandom(5_000_000), "too_many_bytes"),
    "wide.png": (encoded(np.zeros((4000, 4001), np.uint8), "PNG"), "too_many_pixels"),
    "cut.jpg": (jpeg(seed=2)[:3000], "truncated"),
    "moving.gif": (encoded(pixels(seed=3), "GIF"), "unsupported_format"),
}
CRASHING = {
    "segfault.jpg": (encoded(pixels(seed=7), "JPEG", comment=SEGFAULT), "The decoder was ended by SIGSEGV."),
    "stuck.jpg": (encoded(pixels(seed=8), "JPEG", comment=STUCK), "The decoder was stuck for 1 s."),
    "bomb.jpg": (scan_bomb(), "The decoder was stuck for 1 s."),
}


@pytest.fixture(scope="module")
def drained(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with photos, what cannot be used, and what ends the decoder, all taken in one drain."""
    settings = load_settings(
        home=str(tmp_path_factory.mktemp("drained") / "home"),
        trigger="100ms",
        settle="0s",
        key_pattern=r"^(?P<subject>u\d+)/(?P<label>[^/]+)/",
        max_image_bytes="4MiB",
        max_pixels=16_000_000,
        max_decode_time="1s",
    )
    bad = {key: body for key, (body, _) in (REJECTS | CRASHING).items()}
    drop(settings, PHOTOS | bad)
    run_here(spark, with_featurizer(settings, untrained), tmp_path_factory.mktemp("scratch"))
    return settings


def test_a_photo_becomes_a_row_with_the_features_of_its_pixels(drained: Settings, untrained: CompiledNetwork) -> None:
    found = {Path(row["source"]).name: row for row in rows(drained, "SELECT * FROM features")}
    assert found.keys() == {Path(key).name for key in PHOTOS}
    network = Featurizer(untrained.network)
    for key, body in PHOTOS.items():
        row = found[Path(key).name]
        expected = network.features(decode(body, drained.limits).pixels[None])[0]
        assert np.allclose(row["features"], expected, rtol=1e-5, atol=1e-6)
        assert row["bytes"] == len(body)
        assert timedelta(0) <= datetime.now(UTC) - row["ingested_at"] < timedelta(hours=1)
        assert row["ingest_date"] == row["ingested_at"].date()
    assert (found["a.jpg"]["label"], found["a.jpg"]["subject"]) == ("kiwi", "u1")
    assert (found["a.jpg"]["width"], found["a.jpg"]["height"], found["a.jpg"]["format"]) == (640, 480, "JPEG")
    assert (found["elsewhere.jpg"]["label"], found["elsewhere.jpg"]["subject"]) == (None, None)
    assert found["b.png"]["source"] == drained.places().landing.uri_of("u2/lime/b.png")


def test_what_cannot_be_used_or_ends_the_decoder_is_a_reject_and_its_neighbours_are_not(drained: Settings) -> None:
    rejects = {Path(row["source"]).name: row for row in rows(drained, "SELECT * FROM rejects")}
    reasons = {key: reason for key, (_, reason) in REJECTS.items()} | dict.fromkeys(CRASHING, "decoder_crashed")
    assert {name: row["reason"] for name, row in rejects.items()} == reasons
    assert all(row["detail"] for row in rejects.values())
    assert {key: rejects[key]["detail"] for key in CRASHING} == {key: detail for key, (_, detail) in CRASHING.items()}
    assert read_status(drained.places(), verify=True).broken == []


def test_the_label_is_the_last_folder_where_the_layout_says_so(local_settings: MakeSettings, drain: Drain) -> None:
    keys = ("Training/kiwi/1.jpg", "lime/2.jpg", "Test/2026/pear/3.jpg", "4.jpg")
    settings = local_settings(layout="last-folder")
    drop(settings, {key: jpeg(seed) for seed, key in enumerate(keys)})
    drain(settings)
    found = rows(settings, "SELECT source, label, subject FROM features")
    labels = {row["source"]: row["label"] for row in found}
    place = settings.places().landing
    assert labels == dict(zip(map(place.uri_of, keys), ("kiwi", "lime", "pear", None), strict=True))
    assert {row["subject"] for row in found} == {None}


def test_photos_deleted_before_they_are_fetched_are_missing_on_s3(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client"
) -> None:
    settings = s3_settings()
    bucket = settings.home.removeprefix("s3://").split("/")[0]
    s3.put_object(Bucket=bucket, Key="home/landing/a.jpg", Body=jpeg(seed=1))
    plan_all(settings)
    s3.delete_object(Bucket=bucket, Key="home/landing/a.jpg")

    drain(settings)

    assert [row["reason"] for row in rows(settings, "SELECT reason FROM rejects")] == ["missing"]


def test_clean_delete_keeps_what_was_rejected_and_what_was_replaced(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings(clean="delete")
    drop(settings, {"kiwi/a.jpg": jpeg(seed=1), "kiwi/notes.jpg": text_file()})
    drain(settings)
    landing = settings.places().landing.directory
    assert [path.name for path in landing.rglob("*.*")] == ["notes.jpg"]


def test_clean_archive_moves_photos_under_names_with_their_etag(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings(clean="archive")
    for seed in (1, 2):
        drop(settings, {"kiwi/a.jpg": jpeg(seed=seed)})
        drain(settings)
    etags = {row["etag"] for row in rows(settings, "SELECT etag FROM features")}
    archived = {path.name for path in (settings.places().archive.directory / "kiwi").iterdir()}
    assert archived == {f"a.{etag}.jpg" for etag in etags}
    assert len(archived) == 2
    assert list(settings.places().landing.directory.rglob("*.jpg")) == []


@pytest.mark.processes
def test_a_running_stream_survives_a_killed_worker_and_finishes_the_batch_in_hand_at_ctrl_c(
    local_settings: MakeSettings,
) -> None:
    settings = local_settings()
    drop(settings, {f"kiwi/{number}.jpg": body for number, body in enumerate(many_jpegs(60, 2400, 1800))})
    with stream_process(settings) as process:
        os.kill(_first_worker(process.pid, timeout_s=90), signal.SIGKILL)
        _wait_for_photos(settings, 60, process)
        drop(settings, {"lime/dropped while it runs.jpg": jpeg(seed=60)})
        _wait_for_photos(settings, 61, process)
        before = _files(settings)
        drop(settings, {f"pear/{number}.jpg": body for number, body in enumerate(many_jpegs(30, 1600, 1200))})
        _wait_until(lambda: _files(settings) > before, process, 60)
        process.send_signal(signal.SIGINT)
        output, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (0, "")
    status = read_status(settings.places(), verify=True)
    assert (status.unfinished_batches, status.broken) == ([], [])
    assert status.tables[0].rows == photos_told(output)
    assert rows(settings, "SELECT count(*) - count(DISTINCT source) AS doubled FROM features") == [{"doubled": 0}]


def _files(settings: Settings) -> int:
    return len(list(settings.places().features.directory.glob("ingest_date=*/*")))


def _wait_for_photos(settings: Settings, count: int, process: "subprocess.Popen[str]") -> None:
    _wait_until(lambda: _photos(settings) == count, process, 90)


def _photos(settings: Settings) -> int:
    handle = open_table(settings.places(), FEATURE_ROWS)
    return sum(file.rows for file in data_files(handle)) if handle else 0


def _wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def _first_worker(driver: int, timeout_s: float) -> int:
    """A Python worker of the driver's Spark that runs our task: it has loaded the network."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                runs_tasks = b"pyspark.daemon\0pyspark.worker" in (process / "cmdline").read_bytes()
                loaded = runs_tasks and b"litert" in (process / "maps").read_bytes()
                if loaded and str(driver) in _ancestors(int(process.name)):
                    return int(process.name)
            except (FileNotFoundError, ProcessLookupError):
                continue
        time.sleep(0.02)
    raise TimeoutError("no worker appeared")


def _ancestors(pid: int) -> list[str]:
    found = []
    while pid > 1:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        found.append(str(pid))
    return found
