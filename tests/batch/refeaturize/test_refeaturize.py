"""Photos get features of another network from what is left of them, each once, whatever else goes on."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.erase.erase import ErasureRequest, erase
from batch.maintain.compaction import compact, groups_to_compact
from batch.maintain.maintain import Retention, maintain
from batch.maintain.retention import expire_rows
from batch.refeaturize import refeaturize as module
from batch.refeaturize.refeaturize import Refeaturization, RefeaturizeOptions, refeaturize
from batch.refeaturize.report import read_report
from batch.refeaturize.task import Task, TaskMessage, featurize_task
from bootstrap.weights.weights import CompiledNetwork
from features.errors import InvalidWeights
from features.featurizer import Featurizer, Recipe
from features.image import decode
from ops.status.status import read_status
from store.errors import HomeInUse
from store.home import Home
from store.models.pca_models import name_served_featurizer
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.landing import LandedObject, archived_name, list_landed
from store.settings import Settings, load_settings
from store.tables.files import data_files
from store.tables.handles import open_table, open_tables
from store.tables.lacking import lacking
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.ingested import ingest
from tests.support.pictures import encoded, jpeg, pixels
from tests.support.stream_run import Run, drop, rows, run_here

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

FEW = 3


def _photos(label: str, seed: int, count: int = FEW) -> dict[str, bytes]:
    return {f"{label}/{seed + n}.jpg": jpeg(seed=seed + n, width_px=480, height_px=360) for n in range(count)}


def _publish(settings: Settings, network: CompiledNetwork, copy_px: int | None, is_first: bool = False) -> str:
    """Make the same network with other pixels the home's newest featurizer; the one before stays the served one."""
    home = settings.places()
    if not is_first:
        name_served_featurizer(home)
    return publish_featurizer(
        home, network.network, network.source, network.fingerprint, kind=network.kind, copy_px=copy_px
    ).id


def _refeaturize(spark: SparkSession, settings: Settings, **options: Any) -> list[Refeaturization]:
    said: list[str] = []
    chosen = RefeaturizeOptions(settings.limits, share=1.0, **options)
    return refeaturize(spark.sparkContext, settings.places(), chosen, said.append, lambda _, __: None)


def _rows_of(settings: Settings, featurizer: str) -> dict[str, dict[str, Any]]:
    found = rows(settings, f"SELECT * FROM features WHERE featurizer = '{featurizer}'")
    by_key = {row["source"].partition("/landing/")[2]: row for row in found}
    assert len(by_key) == len(found)
    return by_key


def _lacks(home: Home, featurizer: str) -> int:
    return sum(lacking(home, open_tables(home), featurizer, with_lost=True).values())


def test_photos_come_from_copies_the_archive_and_the_landing(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings, untrained: CompiledNetwork
) -> None:
    settings = local_settings(clean="archive")
    home, first = settings.places(), str(current_featurizer(settings.places()))
    archived = _photos("kiwi", 1)
    drop(settings, archived)
    drain(settings)
    kept = settings.model_copy(update={"clean": "keep"})
    landed = _photos("lime", 11)
    drop(settings, landed)
    drain(kept)
    second = _publish(settings, untrained, copy_px=300)
    copied = _photos("plum", 21)
    drop(settings, copied)
    drain(kept.model_copy(update={"copies": True}))
    third = _publish(settings, untrained, copy_px=320)
    shutil.rmtree(home.landing.directory / "plum")

    done = _refeaturize(spark, settings)
    assert [(one.featurizer, one.rows, one.places, one.lost) for one in done] == [
        (third, 9, {"copy": 3, "archive": 3, "landing": 3}, {}),
        (first, 0, {}, {}),
    ]
    assert _rows_of(settings, second).keys() == copied.keys()
    before, after = _rows_of(settings, first), _rows_of(settings, third)
    assert before.keys() == after.keys() == {*archived, *landed, *copied}
    for key, row in after.items():
        assert row | {"features": None, "featurizer": first} == before[key] | {"features": None}
    network = Featurizer(untrained.network)
    for key in (*archived, *landed):
        body = (archived | landed)[key]
        expected = network.features(decode(body, settings.limits, Recipe(copy_px=320)).pixels[None])[0]
        np.testing.assert_allclose(after[key]["features"], expected, rtol=1e-5, atol=1e-6)
    assert read_status(home, verify=True).broken == []
    assert all(file.network for file in data_files(open_table(home, FEATURE_ROWS)))

    again = _refeaturize(spark, settings)
    assert [one.rows for one in again] == [0, 0]
    assert read_report(home, third) is None


@pytest.fixture(scope="module")
def once(
    spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, str, dict[str, bytes]]:
    """A home with two batches of photos that left only copies, and a newer network that none of them has."""
    home = str(tmp_path_factory.mktemp("copied") / "home")
    settings = load_settings(home=home, trigger="100ms", settle="0s", clean="reduce")
    first = _publish(settings, untrained, copy_px=300, is_first=True)
    photos: dict[str, bytes] = {}
    for seed in (1, 11):
        new = _photos("kiwi", seed)
        photos |= new
        drop(settings, new)
        run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    assert list(list_landed(settings.places().landing)) == []
    second = _publish(settings, untrained, copy_px=320)
    assert first != second
    return settings, second, photos


@pytest.fixture
def copied(once: tuple[Settings, str, dict[str, bytes]], tmp_path: Path) -> tuple[Settings, str, dict[str, bytes]]:
    """A copy of that home."""
    settings, second, photos = once
    shutil.copytree(settings.home, tmp_path / "home")
    return settings.model_copy(update={"home": str(tmp_path / "home")}), second, photos


def _damage(home: Home) -> None:
    """Overwrite the pictures in one of the files of copies, and leave the rest of it whole."""
    file = data_files(open_table(home, COPY_ROWS))[0]
    path = home.copies.directory / file.path
    body = path.read_bytes()
    path.write_bytes(body.replace(b"\xff\xd8\xff", b"\0\0\0"))


def test_a_damaged_copy_is_replaced_by_the_original_or_told(
    spark: SparkSession, copied: tuple[Settings, str, dict[str, bytes]]
) -> None:
    settings, second, photos = copied
    home = settings.places()
    _damage(home)
    lost = _refeaturize(spark, settings)[0]
    assert (lost.rows, lost.places, lost.lost) == (FEW, {"copy": FEW}, {"copy_damaged": FEW})
    report = read_report(home, second)
    assert report is not None
    assert report.lost == {datetime.now(UTC).date(): {"copy_damaged": FEW}}
    assert lacking(home, open_tables(home), second) == {}
    assert _lacks(home, second) == FEW
    assert read_status(home, verify=True).broken == []
    # Somebody finds them in a backup, and puts them back as they were.
    versions = rows(settings, "SELECT DISTINCT source, etag, bytes, arrived_at FROM features")
    for row in versions:
        key = row["source"].partition("/landing/")[2]
        landed = LandedObject(key, row["bytes"], row["etag"], row["arrived_at"])
        path = home.archive.directory / archived_name(landed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photos[key])
    found = _refeaturize(spark, settings)[0]
    assert (found.rows, found.places, found.lost) == (FEW, {"archive": FEW}, {})
    assert _rows_of(settings, second).keys() == photos.keys()
    assert read_status(home, verify=True).broken == []


def test_a_file_of_copies_that_is_no_file_any_more_costs_only_its_photos(
    spark: SparkSession, copied: tuple[Settings, str, dict[str, bytes]]
) -> None:
    settings, second, _ = copied
    home = settings.places()
    broken, gone = data_files(open_table(home, COPY_ROWS))[:2]
    (home.copies.directory / broken.path).write_bytes(b"nothing")
    (home.copies.directory / gone.path).unlink()
    done = _refeaturize(spark, settings)[0]
    assert done.rows + sum(done.lost.values()) == 2 * FEW
    assert sum(done.lost.values()) == broken.rows + gone.rows
    assert len(_rows_of(settings, second)) == done.rows


@pytest.mark.processes
def test_two_versions_of_a_key_each_get_their_own_features(
    spark: SparkSession, drain: Drain, local_settings: MakeSettings, untrained: CompiledNetwork
) -> None:
    settings = local_settings(clean="archive")
    bodies = [jpeg(seed=seed, width_px=320, height_px=240) for seed in (1, 2, 3)]
    for body in bodies[:2]:
        drop(settings, {"kiwi/a.jpg": body})
        drain(settings)
    kept = settings.model_copy(update={"clean": "keep"})
    drop(kept, {"kiwi/a.jpg": bodies[2], "kiwi/b.jpg": bodies[0]})
    drain(kept)
    second = _publish(settings, untrained, copy_px=300)
    # The one that landed last is replaced by what the stream has not seen.
    drop(settings, {"kiwi/b.jpg": bodies[1]})
    done = _refeaturize(spark, settings)[0]
    assert (done.rows, done.places, done.lost) == (3, {"archive": 2, "landing": 1}, {"replaced": 1})
    network = Featurizer(untrained.network)
    for row in rows(settings, f"SELECT * FROM features WHERE featurizer = '{second}'"):
        [body] = [body for body in bodies if hashlib.sha256(body).hexdigest() == row["image_id"]]
        expected = network.features(decode(body, settings.limits, Recipe(copy_px=300)).pixels[None])[0]
        np.testing.assert_allclose(row["features"], expected, rtol=1e-5, atol=1e-6)


def test_a_network_that_gives_no_numbers_writes_nothing_and_is_named(
    spark: SparkSession, copied: tuple[Settings, str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, second, _ = copied
    home = settings.places()

    def of_nan(task: Task) -> TaskMessage:
        class Bad:
            def features(self, pixels: Any) -> Any:
                return np.full((len(pixels), 1280), np.nan, np.float32)

        return featurize_task(task, Bad(), decode)  # type: ignore[arg-type]

    monkeypatch.setattr(
        module._Filling, "_run_tasks", lambda self, share, tasks: self._checked([of_nan(task) for task in tasks])
    )
    before = open_table(home, FEATURE_ROWS)
    assert before is not None
    with pytest.raises(InvalidWeights, match=rf"Featurizer {second} .* gives a NaN or an infinity for .*kiwi/1?\d.jpg"):
        _refeaturize(spark, settings)
    after = open_table(home, FEATURE_ROWS)
    assert after is not None
    assert before.version() == after.version()


def test_others_work_on_the_tables_between_two_transactions(
    spark: SparkSession, drain: Drain, copied: tuple[Settings, str, dict[str, bytes]]
) -> None:
    settings, second, photos = copied
    home = settings.places()
    erased, late = "kiwi/1.jpg", _photos("lime", 31)
    did: list[int] = []

    def between(done: int, total: int) -> None:
        # The first transaction has made the newest batch, and the others have not begun.
        if done and not did:
            did.append(done)
            maintain(home, Retention(), print, lambda _: None)
            drop(settings, late)
            drain(settings)
            request = ErasureRequest("source", home.landing.source_of(erased))
            erase(home, request, print, lambda _, __: None, copy_s=0)
            later = datetime.now(UTC) + timedelta(days=1)
            compact(home, groups_to_compact(home, later), lambda: None)

    options = RefeaturizeOptions(settings.limits, share=1.0, photos_a_slot=1)
    done = refeaturize(spark.sparkContext, home, options, print, between)[0]
    assert did == [FEW]
    left = {*photos, *late} - {erased}
    assert _rows_of(settings, second).keys() == left
    assert done.rows == len(photos) - 1
    assert _lacks(home, second) == 0
    assert read_status(home, verify=True).broken == []


def test_what_an_erasure_covers_is_not_committed_by_who_read_it_before(
    spark: SparkSession, copied: tuple[Settings, str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, second, photos = copied
    home = settings.places()
    commit = module._Filling._commit

    def late(self: Any, *arguments: Any) -> bool:
        # As if this process had slept past the end of its lease.
        (home.state.directory / "lease.json").unlink(missing_ok=True)
        request = ErasureRequest("source", home.landing.source_of("kiwi/1.jpg"))
        erase(home, request, print, lambda _, __: None, copy_s=0)
        return commit(self, *arguments)

    monkeypatch.setattr(module._Filling, "_commit", late)
    with pytest.raises(HomeInUse, match="erasure"):
        _refeaturize(spark, settings)
    monkeypatch.undo()
    (home.state.directory / "lease.json").unlink(missing_ok=True)
    _refeaturize(spark, settings)
    assert _rows_of(settings, second).keys() == photos.keys() - {"kiwi/1.jpg"}
    assert read_status(home, verify=True).broken == []


def test_days_whose_rows_are_no_longer_kept_stay_away(
    spark: SparkSession, copied: tuple[Settings, str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, _ = copied
    home = settings.places()
    commit = module._Filling._commit

    def late(self: Any, *arguments: Any) -> bool:
        now = datetime.now(UTC) + timedelta(days=1)
        for table in (FEATURE_ROWS, COPY_ROWS):
            expire_rows(home, table, timedelta(0), now, dry_run=False)
        return commit(self, *arguments)

    monkeypatch.setattr(module._Filling, "_commit", late)
    assert _refeaturize(spark, settings)[0].rows == 0
    assert rows(settings, "SELECT * FROM features") == []


@pytest.mark.processes
def test_originals_on_s3_come_from_the_archive_and_the_landing(
    spark: SparkSession,
    drain: Drain,
    s3_settings: MakeSettings,
    s3: "S3Client",
    bucket: str,
    untrained: CompiledNetwork,
) -> None:
    settings = s3_settings(clean="archive")
    kept = settings.model_copy(update={"clean": "keep"})
    # A key that obstore cannot address is read by boto3.
    for chosen, keys in ((settings, ("kiwi/1.jpg", "kiwi//2.jpg")), (kept, ("lime/3.jpg", "lime/4.jpg"))):
        for key in keys:
            body = jpeg(seed=len(key), width_px=320, height_px=240)
            s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=body)
        drain(chosen)
    second = _publish(settings, untrained, copy_px=300)
    s3.delete_object(Bucket=bucket, Key="home/landing/lime/4.jpg")
    done = _refeaturize(spark, settings)[0]
    assert (done.rows, done.places, done.lost) == (3, {"archive": 2, "landing": 1}, {"missing": 1})
    assert _rows_of(settings, second).keys() == {"kiwi/1.jpg", "kiwi//2.jpg", "lime/3.jpg"}
    assert read_status(settings.places(), verify=True).broken == []


def test_a_photo_that_crashes_the_decoder_costs_only_itself(
    spark: SparkSession, local_settings: MakeSettings, untrained: CompiledNetwork
) -> None:
    settings = local_settings()
    # Rows without decoding, as a decoder of another release may have made them.
    drop(settings, _photos("kiwi", 1) | {"kiwi/crashes.jpg": encoded(pixels(seed=40), "JPEG", comment=SEGFAULT)})
    ingest(settings)
    second = _publish(settings, untrained, copy_px=300)
    done = _refeaturize(spark, settings)[0]
    assert (done.rows, done.lost) == (FEW, {"decoder_crashed": 1})
    assert _rows_of(settings, second).keys() == _photos("kiwi", 1).keys()
