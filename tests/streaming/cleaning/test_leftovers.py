"""`keep` becomes `reduce`: what was taken in before gets its copy first, once, and only then its original goes."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import SparkSession

from batch.erase.erase import ErasureRequest, erase
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.errors import AnotherStreamRunning, FeaturizerConflict, StorageUnavailable
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.landing import list_landed
from store.settings import Settings, load_settings
from store.state.claim import hold_claim
from store.state.erasures import begin_erasure, finish_erasure
from store.state.expired import raise_first_copied_day
from store.state.heartbeat import read_heartbeat
from store.state.plans import Plan, write_plan
from store.tables import copies
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS
from streaming.cleaning import leftovers
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.pictures import encoded, grainy, jpeg, pixels, text_file
from tests.support.stream_run import Run, drop, rows, run_here

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

PHOTOS = {
    "kiwi/large.jpg": encoded(grainy(1, 1600, 1200), "JPEG", quality=92, comment=b"A serial number"),
    "kiwi/small.jpg": jpeg(seed=2),
    "lime/a.png": encoded(pixels(seed=3, width_px=700, height_px=500), "PNG"),
    "lime/b.heic": encoded(pixels(seed=4, width_px=700, height_px=500), "HEIF"),
}
KEPT = {**PHOTOS, "kiwi/notes.jpg": text_file()}


def _reducing(settings: Settings, network: CompiledNetwork) -> Settings:
    publish_featurizer(settings.places(), network.network, network.source, network.fingerprint, copy_px=300)
    return settings.model_copy(update={"clean": "reduce"})


@pytest.fixture(scope="module")
def kept(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of two batches that kept its photos where they landed, and no copies."""
    settings = load_settings(home=str(tmp_path_factory.mktemp("kept") / "home"), trigger="100ms", settle="0s")
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint)
    for some in (dict(list(KEPT.items())[:2]), KEPT):
        drop(settings, {key: body for key, body in some.items() if key not in _in_landing(settings)})
        run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture
def before(kept: Settings, untrained: CompiledNetwork, tmp_path: Path) -> Settings:
    """A copy of that home, with the rule that is to come."""
    # With the times of the files, which tell their versions.
    shutil.copytree(kept.home, tmp_path / "home")
    return _reducing(kept.model_copy(update={"home": str(tmp_path / "home")}), untrained)


def _in_landing(settings: Settings) -> list[str]:
    return sorted(landed.key for landed in list_landed(settings.places().landing))


def _copies(settings: Settings, columns: str = "key") -> list[Any]:
    """What the copies' rows say that stand beside a feature row, by key."""
    found = rows(
        settings,
        "SELECT split_part(f.source, '/landing/', 2) AS key, batch, octet_length(jpeg) > 0 AS whole FROM features f "
        "JOIN copies c USING (batch, source, etag, image_id, ingest_date, arrived_at) ORDER BY key",
    )
    assert len(found) == len(rows(settings, "SELECT * FROM copies")) and all(row["whole"] for row in found)
    return [row[columns] for row in found]


def _stuck(settings: Settings) -> dict[str, int]:
    heartbeat = read_heartbeat(settings.places())
    assert heartbeat is not None and heartbeat.vitals is not None
    return heartbeat.vitals.uncopied


def _broken(settings: Settings) -> list[str] | None:
    return read_status(settings.places(), verify=True).broken


def test_a_full_landing_is_copied_and_cleared_by_one_drain(before: Settings, drain: Drain) -> None:
    home, now, pattern = before.places(), datetime.now(UTC), before.key_pattern_in_force
    # Planned by a stream that kept no copies, and not begun; and one that comes with the new rule.
    drop(before, {"kiwi/planned.jpg": jpeg(seed=11)})
    objects = tuple(landed for landed in list_landed(home.landing) if landed.key == "kiwi/planned.jpg")
    featurizer = str(current_featurizer(home))
    write_plan(home, Plan(3, "killed", now, now.date(), home.landing.source, pattern, featurizer, objects))
    drop(before, {"kiwi/new.jpg": jpeg(seed=12)})

    drain(before)
    # That of the plan got its rows after the listing began: the next one finds it.
    assert set(_in_landing(before)) <= {"kiwi/notes.jpg", "kiwi/planned.jpg"}
    drain(before)
    assert _in_landing(before) == ["kiwi/notes.jpg"]
    assert _copies(before) == sorted([*PHOTOS, "kiwi/new.jpg", "kiwi/planned.jpg"])
    assert sorted(_copies(before, "batch")) == [1, 1, 2, 2, 3, 4]
    assert _broken(before) == []
    drain(before)
    assert len(_copies(before)) == len(PHOTOS) + 2


@pytest.mark.processes
def test_a_landing_in_a_bucket_is_copied_and_cleared(
    s3_settings: MakeSettings,
    untrained: CompiledNetwork,
    s3: "S3Client",
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = s3_settings()
    bucket, prefix = str(settings.places().landing.uri).removeprefix("s3://").split("/", 1)
    for key, body in KEPT.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)
    drain(settings)
    assert _in_landing(settings) == sorted(KEPT)
    # The same bytes are the same version, with a later time than their rows have.
    monkeypatch.setattr(copies, "_AROUND", timedelta(0))
    time.sleep(1)
    for key, body in PHOTOS.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)
    drain(_reducing(settings, untrained))
    assert _in_landing(settings) == ["kiwi/notes.jpg"]
    assert _copies(settings) == sorted(PHOTOS)
    assert _broken(settings) == []


def test_what_cannot_be_copied_stays_and_is_told(before: Settings, drain: Drain) -> None:
    changed = before.places().landing.directory / "kiwi/small.jpg"
    status = changed.stat()
    # The version that the row names, with another picture in it.
    changed.write_bytes(bytes([*changed.read_bytes()[:-1], 0]))
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    drain(before.model_copy(update={"max_pixels": 340_000}))
    assert _in_landing(before) == ["kiwi/notes.jpg", "kiwi/small.jpg", "lime/a.png", "lime/b.heic"]
    assert _copies(before) == ["kiwi/large.jpg"]
    assert _stuck(before) == {"changed": 1, "too_many_pixels": 2}
    assert _broken(before) == []


def test_a_photo_that_crashes_the_decoder_stops_no_other(before: Settings, drain: Drain) -> None:
    home = before.places()
    body = encoded(pixels(seed=7), "JPEG", comment=SEGFAULT)
    drop(before, {"kiwi/large.jpg": body})
    [landed] = [landed for landed in list_landed(home.landing) if landed.key == "kiwi/large.jpg"]
    # As if a decoder of that time had read it.
    features = open_table(home, FEATURE_ROWS)
    assert features is not None
    new = {"image_id": hashlib.sha256(body).hexdigest(), "etag": landed.etag}
    features.update(new_values=new, predicate="source LIKE '%/kiwi/large.jpg'")
    shutil.rmtree(home.batches.directory)
    drain(before)
    assert _in_landing(before) == ["kiwi/large.jpg", "kiwi/notes.jpg"]
    assert _copies(before) == sorted(PHOTOS.keys() - {"kiwi/large.jpg"})
    assert _stuck(before) == {"decoder_crashed": 1}


def test_photos_whose_copies_would_be_too_old_stay(before: Settings, drain: Drain) -> None:
    raise_first_copied_day(before.places(), datetime.now(UTC).date() + timedelta(days=1))
    drain(before)
    assert _in_landing(before) == sorted(KEPT)
    assert _stuck(before) == {"too_old": len(PHOTOS)}


def test_photos_that_stay_take_no_place_of_others(
    before: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = before.places()
    raise_first_copied_day(home, datetime.now(UTC).date() + timedelta(days=1))
    landed = [one for one in list_landed(home.landing) if one.key in PHOTOS]
    monkeypatch.setattr(leftovers, "MOST_HELD", 2)
    copying = leftovers.LeftoverCopies(
        spark.sparkContext, home, before, "a test", lambda: False, lambda landing, objects: None
    )
    copying.start()
    try:
        for count in (2, 4):
            copying.add(landed)
            while copying.waiting:
                time.sleep(0.05)
            assert (copying.stuck, copying.failure) == ({leftovers.TOO_OLD: count}, None)
        monkeypatch.setattr(leftovers, "MOST_STUCK", 3)
        monkeypatch.setattr(leftovers, "LEFT_FOR_S", 0.0)
        copying.add(landed[:1])
        while copying.waiting:
            time.sleep(0.05)
        assert copying.stuck == {leftovers.TOO_OLD: 3}
    finally:
        copying.close()


def test_a_commit_whose_answer_is_lost_copies_nothing_twice(
    before: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leftovers.append_once

    def unanswered(*arguments: Any) -> bool:
        real(*arguments)
        return False

    monkeypatch.setattr(leftovers, "append_once", unanswered)
    drain(before)
    assert _in_landing(before) == ["kiwi/notes.jpg"]
    assert _copies(before) == sorted(PHOTOS)


def test_a_kill_between_copies_and_originals_doubles_none(before: Settings, drain: Drain, tmp_path: Path) -> None:
    landing = before.places().landing.directory
    shutil.copytree(landing, tmp_path / "landing")
    drain(before)
    shutil.copytree(tmp_path / "landing", landing, dirs_exist_ok=True)
    drain(before)
    assert _in_landing(before) == ["kiwi/notes.jpg"]
    assert _copies(before) == sorted(PHOTOS)


def test_an_erasure_that_is_not_finished_is_waited_for(before: Settings, drain: Drain) -> None:
    home = before.places()
    erasure = begin_erasure(home, "source", "kiwi/small.jpg", (), datetime.now(UTC))
    drain(before)
    assert (_in_landing(before), _copies(before)) == (sorted(KEPT), [])
    finish_erasure(home, erasure.id, datetime.now(UTC))
    drain(before)
    assert _copies(before) == sorted(PHOTOS)


def test_an_erasure_beside_it_leaves_no_copy(before: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    home = before.places()
    real = leftovers.LeftoverCopies._collect

    def erased_meanwhile(*arguments: Any) -> Any:
        made = real(*arguments)
        monkeypatch.undo()
        request = ErasureRequest("source", home.landing.uri_of("kiwi/small.jpg"))
        erase(home, request, lambda _: None, lambda *_: None, copy_s=0)
        return made

    monkeypatch.setattr(leftovers.LeftoverCopies, "_collect", erased_meanwhile)
    drain(before)
    assert (_copies(before), list(home.copies.directory.glob("*/*.parquet"))) == ([], [])
    drain(before)
    assert _in_landing(before) == ["kiwi/notes.jpg"]
    assert _copies(before) == sorted(PHOTOS.keys() - {"kiwi/small.jpg"})
    assert _broken(before) == []


def test_a_version_that_is_replaced_meanwhile_is_left_and_the_new_one_is_taken_in(
    before: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leftovers.LeftoverCopies._collect

    def replaced_meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        drop(before, {"kiwi/small.jpg": jpeg(seed=31)})
        return real(*arguments)

    monkeypatch.setattr(leftovers.LeftoverCopies, "_collect", replaced_meanwhile)
    drain(before)
    assert (_in_landing(before), _stuck(before)) == (["kiwi/notes.jpg", "kiwi/small.jpg"], {})
    drain(before)
    assert (_in_landing(before), _copies(before)) == (["kiwi/notes.jpg"], sorted(PHOTOS))
    assert len(rows(before, "SELECT * FROM features")) == len(PHOTOS) + 1
    assert _broken(before) == []


def test_a_full_disk_stops_it_before_any_original_goes(
    before: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leftovers.append_once

    def full(*arguments: Any) -> bool:
        raise StorageUnavailable("Cannot append to copies: no space is left on this disk")

    monkeypatch.setattr(leftovers, "append_once", full)
    with pytest.raises(StorageUnavailable, match="no space is left"):
        drain(before)
    assert (_in_landing(before), _copies(before)) == (sorted(KEPT), [])
    monkeypatch.setattr(leftovers, "append_once", real)
    drain(before)
    assert (_in_landing(before), _copies(before)) == (["kiwi/notes.jpg"], sorted(PHOTOS))


@pytest.mark.processes
def test_a_home_whose_stream_still_runs_is_left_alone(before: Settings, drain: Drain) -> None:
    with (
        hold_claim(before.places(), threading.Event(), print, False, lambda: None),
        pytest.raises(AnotherStreamRunning),
    ):
        drain(before)
    assert _in_landing(before) == sorted(KEPT)


def test_a_stream_that_lost_its_home_commits_no_copy(
    before: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leftovers.LeftoverCopies._collect

    def taken_over(*arguments: Any) -> Any:
        made = real(*arguments)
        claim = before.places().state.directory / "stream.json"
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"nonce": "another's"}))
        return made

    monkeypatch.setattr(leftovers.LeftoverCopies, "_collect", taken_over)
    with pytest.raises(AnotherStreamRunning):
        drain(before)
    assert (_in_landing(before), rows(before, "SELECT * FROM copies")) == (sorted(KEPT), [])


def test_a_network_that_makes_no_copies_is_refused(kept: Settings, drain: Drain, tmp_path: Path) -> None:
    shutil.copytree(kept.home, tmp_path / "home")
    settings = kept.model_copy(update={"home": str(tmp_path / "home"), "clean": "reduce"})
    with pytest.raises(FeaturizerConflict, match="start it with --new-featurizer, or with --clean keep"):
        drain(settings)
    assert _in_landing(settings) == sorted(KEPT)


@pytest.mark.processes
def test_reduce_keep_and_reduce_again_copy_each_photo_once(before: Settings, drain: Drain) -> None:
    drain(before)
    keeping = before.model_copy(update={"clean": "keep"})
    drop(before, {"kiwi/kept.jpg": jpeg(seed=21)})
    drain(keeping)
    drop(before, {"kiwi/archived.jpg": jpeg(seed=22)})
    drain(keeping.model_copy(update={"clean": "archive"}))
    assert _in_landing(before) == []
    drop(before, {"kiwi/late.jpg": jpeg(seed=23)})
    drain(keeping)
    drain(before)
    assert (_in_landing(before), _copies(before)) == ([], sorted([*PHOTOS, "kiwi/late.jpg"]))
    assert _broken(before) == []
