"""Refeaturizing is killed again and again, and loses and doubles nothing."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.models.pca_models import name_served_featurizer
from store.models.registry import current_featurizer, publish_featurizer
from store.settings import Settings
from store.state.refeaturized import lost_reasons
from store.tables.files import data_files
from store.tables.handles import open_table, open_tables
from store.tables.lacking import lacking
from store.tables.schemas import COPY_ROWS
from tests.support.ingested import ingest
from tests.support.pictures import jpeg
from tests.support.stream_run import drop, rows, stream_process

BATCHES, PHOTOS, KILLS = 24, 2, 10
ROOT = Path(__file__).parents[3]
DRIVER = """
import sys
from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from store.settings import load_settings
from tests.support.spark_here import SparkHere
settings = load_settings(home=sys.argv[1])
options = RefeaturizeOptions(settings.limits, photos_a_slot=1)
print("began", flush=True)
refeaturize(SparkHere(), settings.places(), options, lambda _: None, lambda _, __: None)
print("done", flush=True)
"""


def _run(settings: Settings, lives_s: float | None) -> bool:
    """Run it until its end, or kill it after so long; says whether it ended."""
    (settings.places().state.directory / "lease.json").unlink(missing_ok=True)
    command = [sys.executable, "-c", DRIVER, settings.home]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        if lives_s is not None:
            time.sleep(lives_s)
            process.send_signal(signal.SIGKILL)
        return process.stdout.read() == "done\n"


@pytest.mark.processes
def test_ten_kills_lose_and_double_nothing(local_settings: Callable[..., Settings], untrained: CompiledNetwork) -> None:
    settings = local_settings(copies=True)
    home = settings.places()
    for batch in range(BATCHES):
        photos = (jpeg(seed=PHOTOS * batch + n, width_px=320, height_px=240) for n in range(PHOTOS))
        drop(settings, {f"kiwi/{batch}-{n}.jpg": photo for n, photo in enumerate(photos)})
        ingest(settings)
    # Photos that nobody has any more, which each run looks for.
    lost = rows(settings, "SELECT source, batch FROM features WHERE batch IN (9, 10)")
    for row in lost[:3]:
        (home.landing.directory / row["source"].partition("/landing/")[2]).unlink()
    for file in data_files(open_table(home, COPY_ROWS)):
        if file.batches in ((9, 9), (10, 10)):
            path = home.copies.directory / file.path
            path.write_bytes(path.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0"))
    name_served_featurizer(home)
    second = publish_featurizer(
        home, untrained.network, untrained.source, untrained.fingerprint, kind=untrained.kind, copy_px=320
    ).id
    chance = random.Random(23)
    ended = [_run(settings, chance.uniform(0, 0.4)) for _ in range(KILLS)]
    assert True not in ended
    assert 0 < sum(lacking(home, open_tables(home), second).values()) < BATCHES * PHOTOS
    assert _run(settings, None)
    counted = rows(
        settings, f"SELECT count(*) AS n, count(DISTINCT source) AS k FROM features WHERE featurizer = '{second}'"
    )
    assert counted == [{"n": BATCHES * PHOTOS - 3, "k": BATCHES * PHOTOS - 3}]
    assert sum(sum(reasons.values()) for reasons in lost_reasons(home, second).values()) == 3
    assert read_status(home, verify=True).broken == []


@pytest.mark.processes
def test_photos_that_land_meanwhile_get_both_and_nothing_lacks_at_the_end(
    spark: SparkSession, local_settings: Callable[..., Settings], untrained: CompiledNetwork
) -> None:
    settings = local_settings(clean="archive")
    home = settings.places()
    for batch in range(8):
        drop(settings, {f"kiwi/{batch}-{n}.jpg": jpeg(seed=PHOTOS * batch + n) for n in range(PHOTOS)})
        ingest(settings)
    first = str(current_featurizer(home))
    name_served_featurizer(home)
    with stream_process(settings, "--clean", "archive") as stream:
        # The stream that runs learns of the network with its next plan.
        drop(settings, {"lime/before.jpg": jpeg(seed=98)})
        _wait_for(settings, "SELECT * FROM features WHERE label = 'lime'", 1)
        second = publish_featurizer(
            home, untrained.network, untrained.source, untrained.fingerprint, kind=untrained.kind, copy_px=320
        ).id

        def land(done: int, total: int) -> None:
            drop(settings, {f"plum/{done}.jpg": jpeg(seed=100 + done)})

        options = RefeaturizeOptions(settings.limits, photos_a_slot=1)
        [made, *_] = refeaturize(spark.sparkContext, home, options, print, land)
        landed = len(rows(settings, "SELECT 1 FROM features WHERE label = 'plum'"))
        assert stream.poll() is None
        _wait_for(settings, f"SELECT * FROM features WHERE label = 'plum' AND featurizer = '{second}'", 8)
    assert made.rows >= 8 * PHOTOS
    assert landed > 0
    assert lacking(home, open_tables(home), second) == lacking(home, open_tables(home), first) == {}
    counted = rows(settings, "SELECT featurizer, count(*) AS n, count(DISTINCT source) AS k FROM features GROUP BY ALL")
    assert {row["featurizer"] for row in counted} == {first, second}
    assert len({(row["n"], row["k"]) for row in counted}) == 1
    assert read_status(home, verify=True).broken == []


def _wait_for(settings: Settings, sql: str, photos: int) -> None:
    give_up_s = time.monotonic() + 60
    while len(rows(settings, sql)) < photos:
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
