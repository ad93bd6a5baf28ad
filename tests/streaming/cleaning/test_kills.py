"""SIGKILL while photos are copied, new ones and old ones: none is lost, doubled, or gone without its copy."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, drop, rows, run_here, stream_process

OLD = {f"kiwi/old-{n}.jpg": jpeg(seed=n) for n in range(12)}
NEW = {f"lime/new-{n}.jpg": jpeg(seed=100 + n) for n in range(12)}


@pytest.fixture(scope="module")
def kept(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home that kept what it took in; more photos have landed since."""
    settings = load_settings(home=str(tmp_path_factory.mktemp("kept") / "home"), trigger="100ms", settle="0s")
    network = untrained
    publish_featurizer(settings.places(), network.network, network.source, network.fingerprint)
    drop(settings, OLD)
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    publish_featurizer(settings.places(), network.network, network.source, network.fingerprint, copy_px=300)
    drop(settings, NEW)
    return settings


def _commits(table: str) -> Callable[[Path], int]:
    return lambda home: len(list((home / table / "_delta_log").glob("*.json")))


def _files(pattern: str) -> Callable[[Path], int]:
    return lambda home: len(list(home.glob(pattern)))


def _gone(pattern: str, dropped: int) -> Callable[[Path], int]:
    return lambda home: dropped - len(list(home.glob(pattern)))


# How many there are of something when a kill comes: of a batch that copies first, then of the copies of older photos.
KILLS = {
    "a batch's copies are written": (_files("copies/*/*.parquet"), 1),
    "its result is written": (_files("state/batches/*.result.json"), 2),
    "its features are committed": (_commits("features"), 3),
    "its copies are committed": (_commits("copies"), 2),
    "its last table is committed": (_commits("rejects"), 3),
    "its first original is gone": (_gone("landing/lime/*", len(NEW)), 1),
    "copies of older photos are written": (lambda home: _unnamed(home), 1),
    "they are committed": (_commits("copies"), 3),
    "the first older original is gone": (_gone("landing/kiwi/*", len(OLD)), 1),
    "most of them are gone": (_gone("landing/kiwi/*", len(OLD)), 8),
}


def _unnamed(home: Path) -> int:
    """How many files of copies no commit names, once the batch's are committed."""
    entries = sorted((home / "copies/_delta_log").glob("*.json"))
    if len(entries) < 2:
        return 0
    named = "".join(entry.read_text() for entry in entries)
    return sum(file.name not in named for file in home.glob("copies/*/*.parquet"))


@pytest.mark.processes
@pytest.mark.parametrize("when", KILLS)
def test_a_kill_while_copying_loses_and_doubles_nothing(
    kept: Settings, tmp_path: Path, drain: Callable[[Settings], Run], when: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(kept.home, home)
    settings = kept.model_copy(update={"home": str(home), "clean": "reduce"})
    counted, least = KILLS[when]
    with stream_process(settings, "--drain", "--clean", "reduce") as process:
        while process.poll() is None and counted(home) < least:
            time.sleep(0.001)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    standing = {f"{file.parent.name}/{file.name}" for file in home.glob("landing/*/*")}
    copied = {row["key"] for row in rows(settings, f"SELECT {_KEY} AS key FROM copies")}
    assert (OLD.keys() | NEW.keys()) - standing <= copied

    drain(settings)
    if any(home.glob("landing/*/*")):
        # The drain's listing passed a photo before its rows came.
        drain(settings)
    assert not any(home.glob("landing/*/*"))
    found = rows(
        settings, f"SELECT {_KEY} AS key FROM features JOIN copies USING (batch, source, etag, image_id, ingest_date)"
    )
    assert sorted(row["key"] for row in found) == sorted([*OLD, *NEW])
    assert len(rows(settings, "SELECT * FROM copies")) == len(rows(settings, "SELECT * FROM features")) == len(found)
    assert read_status(settings.places(), verify=True).broken == []
    # A kill that came too late shows nothing of its step.
    assert process.returncode == -signal.SIGKILL or when == "most of them are gone"


_KEY = "split_part(source, '/landing/', 2)"
