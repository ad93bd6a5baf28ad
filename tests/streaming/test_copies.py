"""Copies beside features: each photo one, committed with its batch, whatever happens in between."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from bootstrap.weights.featurizer import install_featurizer
from bootstrap.weights.weights import CompiledNetwork
from features.featurizer import Featurizer
from features.image import decode
from ops.status.status import read_status
from store.errors import FeaturizerConflict, StateDamaged
from store.models.registry import current_featurizer, describe_featurizer, publish_featurizer
from store.objects.landing import list_landed
from store.settings import Settings, load_settings
from store.tables.handles import open_table, open_tables
from store.tables.schemas import COMMIT_ORDER, COPY_ROWS, TABLES
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.pictures import encoded, grainy, jpeg, pixels, text_file
from tests.support.stream_run import Run, drop, plan_all, rows, run_here

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

SECRET = b"A serial number"
PHOTOS = {
    "kiwi/large.jpg": encoded(grainy(1, 1600, 1200), "JPEG", quality=92, comment=SECRET),
    "kiwi/small.jpg": jpeg(seed=2),
    "lime/a.png": encoded(pixels(seed=3, width_px=700, height_px=500), "PNG"),
    "lime/b.heic": encoded(pixels(seed=4, width_px=700, height_px=500), "HEIF"),
}
DROPPED = {
    **PHOTOS,
    "kiwi/notes.jpg": text_file(),
    # It ends the first worker: the others' copies come from decoders in processes of their own.
    "kiwi/segfault.jpg": encoded(pixels(seed=7), "JPEG", comment=SEGFAULT),
}
LOG_ENTRY = "_delta_log/00000000000000000001.json"


def _with_copies(settings: Settings, network: CompiledNetwork) -> Settings:
    publish_featurizer(settings.places(), network.network, network.source, network.fingerprint, copy_px=300)
    return settings.model_copy(update={"copies": True})


@pytest.fixture(scope="module")
def finished(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("copies") / "home"
    settings = _with_copies(load_settings(home=str(home), trigger="100ms", settle="0s"), untrained)
    drop(settings, DROPPED)
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture
def again(finished: Settings, tmp_path: Path) -> Settings:
    """A copy of that home, to damage."""
    shutil.copytree(finished.home, tmp_path / "home")
    return finished.model_copy(update={"home": str(tmp_path / "home")})


def _outcomes(settings: Settings) -> list[dict[str, object]]:
    return rows(
        settings,
        "SELECT split_part(f.source, '/landing/', 2) AS key, f.image_id, features, jpeg FROM features f "
        "JOIN copies c USING (batch, source, etag, image_id) ORDER BY key",
    )


def test_each_photo_has_one_copy_that_its_features_are_made_from(
    finished: Settings, untrained: CompiledNetwork
) -> None:
    found = _outcomes(finished)
    assert [row["key"] for row in found] == sorted(PHOTOS)
    assert len(rows(finished, "SELECT * FROM copies")) == len(PHOTOS)
    network = Featurizer(untrained.network)
    for row in found:
        copy = row["jpeg"]
        assert isinstance(copy, bytes)
        assert SECRET not in copy
        with Image.open(io.BytesIO(copy)) as shown:
            assert shown.format == "JPEG"
            assert min(shown.size) < 600
        expected = network.features(decode(copy, finished.limits).pixels[None])[0]
        assert np.allclose(row["features"], expected, rtol=1e-5, atol=1e-6)
    assert {row["key"]: row["jpeg"] for row in found}["kiwi/small.jpg"] == PHOTOS["kiwi/small.jpg"]
    status = read_status(finished.places(), verify=True)
    assert (status.broken, [table.name for table in status.tables]) == ([], [table.name for table in COMMIT_ORDER])


def _before_the_result(home: Path) -> None:
    # As a kill leaves it while the first batch is at work: the table of copies is there, empty.
    (home / "state/batches/000000000001.result.json").unlink()
    _before_any_commit(home)


def _before_any_commit(home: Path) -> None:
    for table in COMMIT_ORDER:
        (home / table.name / LOG_ENTRY).unlink()


def _before_the_copies(home: Path) -> None:
    for table in COMMIT_ORDER[2:]:
        (home / table.name / LOG_ENTRY).unlink()


def _before_the_rejects(home: Path) -> None:
    (home / "rejects" / LOG_ENTRY).unlink()


@pytest.mark.processes
@pytest.mark.parametrize("as_killed", [_before_the_result, _before_any_commit, _before_the_copies, _before_the_rejects])
@pytest.mark.parametrize("copies", [True, False], ids=["with copies", "copies switched off meanwhile"])
def test_a_kill_at_any_step_loses_and_doubles_no_copy(
    finished: Settings, again: Settings, drain: Drain, as_killed: Callable[[Path], None], copies: bool
) -> None:
    as_killed(Path(again.home))
    drain(again.model_copy(update={"copies": copies}))
    assert _outcomes(again) == _outcomes(finished)
    assert read_status(again.places(), verify=True).broken == []
    assert open_tables(again.places()).committed == (1, 1, 1, 1)


@pytest.mark.parametrize(("input_px", "pixels_"), [(96, "copy-300-q85"), (320, "copy-429-q85")])
def test_copies_are_large_enough_for_the_network_and_for_an_ordinary_one_later(
    input_px: int, pixels_: str, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = load_settings(home=str(tmp_path / "home"))
    home, kind = settings.places(), replace(untrained.kind, input_px=input_px)
    publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint, kind=kind)
    meta = install_featurizer(home, "auto", None, True, settings.limits, print, with_copies=True)
    assert meta.pixels == pixels_


def test_a_home_from_before_takes_copies_from_then_on_and_stays_whole_when_they_end(
    local_settings: MakeSettings, untrained: CompiledNetwork, drain: Drain
) -> None:
    settings = local_settings()
    drop(settings, {"kiwi/old.jpg": jpeg(seed=10)})
    drain(settings)
    home, before = settings.places(), current_featurizer(settings.places())
    assert not home.copies.directory.exists()
    drop(settings, {"kiwi/planned.jpg": jpeg(seed=11), "kiwi/notes.jpg": text_file()})

    with pytest.raises(FeaturizerConflict, match="makes features from photos themselves, and the stream is to keep"):
        drain(settings.model_copy(update={"copies": True}))
    with pytest.raises(FeaturizerConflict, match=r"from copies of 300 pixels they are another .* Add --new-featurizer"):
        install_featurizer(home, "auto", None, False, settings.limits, print, with_copies=True)
    meta = install_featurizer(home, "auto", None, True, settings.limits, print, with_copies=True)
    assert (meta.id != before, meta.fingerprint, meta.pixels) == (True, untrained.fingerprint, "copy-300-q85")
    assert install_featurizer(home, "auto", None, False, settings.limits, print) == meta
    assert install_featurizer(home, "auto", None, False, settings.limits, print, with_copies=True) == meta
    with pytest.raises(FeaturizerConflict, match="copies of 512 pixels"):
        install_featurizer(home, "auto", None, False, settings.limits, print, with_copies=True, copy_px=512)

    drain(settings.model_copy(update={"copies": True}))
    drop(settings, {"kiwi/later.jpg": jpeg(seed=12)})
    drain(settings)
    sources = [Path(row["source"]).name for row in rows(settings, "SELECT source FROM copies")]
    assert sources == ["planned.jpg"]
    # What came since has a row of each network; the first one is served until a version of the other is.
    by_network = rows(settings, "SELECT featurizer, count(*) AS n FROM features GROUP BY ALL")
    assert {row["featurizer"]: row["n"] for row in by_network} == {before: 3, meta.id: 2}
    assert len(rows(settings, "SELECT * FROM photos")) == 3
    assert read_status(home, verify=True).broken == []
    assert len(set(open_tables(home).committed)) == 1
    assert describe_featurizer(home, str(before)).pixels == "draft"


def test_a_lost_table_of_copies_stops_the_stream_and_a_lost_copy_is_told(again: Settings, drain: Drain) -> None:
    home = again.places()
    _before_the_copies(Path(again.home))
    copies = Path(again.home) / "copies"
    shutil.move(copies / "_delta_log", Path(again.home) / "aside")
    with pytest.raises(StateDamaged, match="copies lacks its log, and files of it are there; restore it"):
        drain(again)
    shutil.rmtree(copies)
    with pytest.raises(StateDamaged, match=r"copies is gone, but .*batches tells of batches in it; restore it"):
        drain(again)
    with pytest.raises(StateDamaged, match="copies is gone, but batch 1 has copies for it; restore it"):
        drain(again.model_copy(update={"copies": False}))
    assert "4 photos have no copy, though their batch kept copies: lost." in (_broken_once_committed(again, drain))
    assert home.copies.directory.exists()


def _broken_once_committed(settings: Settings, drain: Drain) -> list[str]:
    """What is wrong when the copies' table was committed to without its files."""
    result = Path(settings.home) / "state/batches/000000000001.result.json"
    stored = json.loads(result.read_text())
    stored["adds"]["copies"] = []
    result.write_text(json.dumps(stored))
    drain(settings)
    return read_status(settings.places(), verify=True).broken or []


def test_a_plan_of_the_last_release_is_done_without_copies(
    local_settings: MakeSettings, untrained: CompiledNetwork, drain: Drain
) -> None:
    settings = _with_copies(local_settings(), untrained)
    drop(settings, {"kiwi/old.jpg": jpeg(seed=10)})
    plan_all(settings)
    plan = settings.places().batches.directory / "000000000001.plan.json"
    stored = json.loads(plan.read_text())
    del stored["copies"]
    plan.write_text(json.dumps(stored))
    drain(settings)
    assert (len(rows(settings, "SELECT * FROM features")), rows(settings, "SELECT * FROM copies")) == (1, [])
    assert read_status(settings.places(), verify=True).broken == []
    assert [table.name for table in TABLES] == [table.name for table in COMMIT_ORDER if table is not COPY_ROWS]


def _in_landing(settings: Settings) -> list[str]:
    return sorted(landed.key for landed in list_landed(settings.places().landing))


@pytest.mark.parametrize("copies_kept", [True, False], ids=["as it was", "copies lost"])
def test_reduce_after_a_kill_deletes_originals_once_the_table_has_their_copies(
    finished: Settings, again: Settings, drain: Drain, copies_kept: bool
) -> None:
    # Kept until now, as by a stream that was killed before it could clear anything away.
    assert _in_landing(again) == sorted(DROPPED)
    if not copies_kept:
        handle = open_table(again.places(), COPY_ROWS)
        assert handle is not None
        handle.delete("batch = 1")
    drain(again.model_copy(update={"clean": "reduce"}))
    assert _in_landing(again) == sorted(DROPPED.keys() - PHOTOS.keys())
    assert _outcomes(again) == _outcomes(finished)
    assert read_status(again.places(), verify=True).broken == []


@pytest.mark.parametrize(("days_ago", "are_due"), [(6.99, False), (7.01, True)])
def test_originals_go_so_long_after_their_commit_and_a_listing_finds_what_is_due(
    again: Settings, drain: Drain, days_ago: float, are_due: bool
) -> None:
    result = Path(again.home, "state/batches/000000000001.result.json")
    stored = json.loads(result.read_text())
    stored["finished_at"] = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    result.write_text(json.dumps(stored))
    drain(load_settings(**again.model_dump(exclude_unset=True) | {"clean": "reduce", "clean_after": "7d"}))
    assert _in_landing(again) == sorted(DROPPED.keys() - PHOTOS.keys() if are_due else DROPPED)
