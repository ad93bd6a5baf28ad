"""Homes that an earlier release left at odd moments are taken up: every photo has one row in the end, none is doubled.

Each `*.tar.xz` beside this file is a home of a few photos as that release left it. It is unpacked to another place than
it was made in, so each of them is a home that has moved. What must become of it stands here, written by hand.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from ops.cli.main import app
from ops.status.status import read_status
from store.answers.answer import answer_key
from store.answers.progress import answered_through
from store.models.pca_models import describe_model
from store.objects.operations import keys_below
from store.settings import Settings, load_settings
from store.state import claim
from store.state.landing_names import remember_landing
from store.tables.handles import open_tables
from tests.support.stream_run import Run, rows

Drain = Callable[[Settings], Run]

STORED = Path(__file__).parent

# By subject and label, as one home was run; the others have the usual pattern.
PATTERN = r"^(?P<subject>[^/]+)/(?P<label>[^/]+)/"

PLACES = {"archive", "features", "labels", "landing", "models", "projections", "rejects", "reports", "state"}
STATE = {
    *("batches", "requests", "snapshots", "home.json", "listed.json", "lease.json", "stream.json"),
    *("erasures.json", "erased_rows.json", "expired.json"),
}

# All photos are of one colour.
RED, GREEN, BLUE, CYAN = (200, 40, 40), (40, 180, 60), (30, 60, 210), (10, 200, 200)
OLIVE, PLUM, ORANGE = (120, 120, 10), (90, 10, 90), (250, 160, 20)

# The days on which the first batches of these homes were planned; a new batch is of the day of the test.
WEDNESDAY, THURSDAY, SATURDAY = "2026-11-25", "2026-11-26", "2026-11-28"

# `été` and `pêche` in both forms of their accents: two folders for the disk, one label for people.
COMPOSED, DECOMPOSED = "p\u00eache", "pe\u0302che"
ETE = "e\u0301te\u0301"


@dataclass(frozen=True)
class Photo:
    batch: int
    label: str
    colour: tuple[int, int, int]
    subject: str | None = None


@dataclass(frozen=True)
class Stored:
    """A stored home, and what a drain makes of it.

    `made_at` is where it was made, and `landing` the name of its landing: the URI by which it first called it.
    `there` are some of its files, `lacking` some that it lacks. `batches` are those that the drain reports, and whether
    each was only rolled forward from its result; `days` those of the batches that had been planned before. `photos` and
    `rejects` (reason and batch) are all rows in the end, by key; every photo is projected with all of `versions`.
    """

    landing: str
    there: tuple[str, ...]
    lacking: tuple[str, ...]
    batches: list[tuple[int, bool]]
    days: Mapping[int, str]
    photos: Mapping[str, Photo]
    rejects: Mapping[str, tuple[str, int]]
    versions: tuple[int, ...] = (1,)
    settings: Mapping[str, Any] = field(default_factory=dict)


FIRST_BATCH = {
    "kiwi/0.png": Photo(1, "kiwi", RED),
    "kiwi/1.jpg": Photo(1, "kiwi", GREEN),
    "pear/0.png": Photo(1, "pear", BLUE),
}
NOTES = {"pear/notes.jpg": ("not_an_image", 1)}

HOMES = {
    # The stream was killed when it had planned batch 2, and its last sign of life says that it lives.
    "unfinished-plan": Stored(
        landing="file:///tmp/fruits-homes/unfinished-plan/home/landing",
        there=("state/batches/000000000002.plan.json", "state/stream.json"),
        lacking=("state/batches/000000000002.result.json",),
        batches=[(2, False), (3, False)],
        days={1: WEDNESDAY, 2: SATURDAY},
        photos={**FIRST_BATCH, "pear/1.png": Photo(2, "pear", PLUM), "pear/new.png": Photo(3, "pear", OLIVE)},
        rejects={**NOTES, "pear/cut.jpg": ("truncated", 2)},
    ),
    # It was killed when `features` held batch 2, and `projections` and `rejects` did not.
    "result-without-commit": Stored(
        landing="file:///tmp/fruits-homes/result-without-commit/home/landing",
        there=("state/batches/000000000002.result.json", "features/_delta_log/00000000000000000002.json"),
        lacking=("rejects/_delta_log/00000000000000000002.json",),
        batches=[(2, True), (3, False)],
        days={1: WEDNESDAY, 2: SATURDAY},
        photos={**FIRST_BATCH, "pear/1.png": Photo(2, "pear", PLUM), "pear/new.png": Photo(3, "pear", OLIVE)},
        rejects={**NOTES, "pear/empty.jpg": ("empty", 2)},
    ),
    # Two of three rejects were asked to be tried again: one was too large for the limit of then, one is no photo.
    "retry-pending": Stored(
        landing="file:///tmp/fruits-homes/retry-pending/home/landing",
        there=("state/requests/retry-*.json",),
        lacking=("state/batches/000000000002.plan.json",),
        batches=[(2, False)],
        days={1: WEDNESDAY},
        photos={
            "kiwi/0.png": Photo(1, "kiwi", RED),
            "kiwi/1.jpg": Photo(1, "kiwi", GREEN),
            "pear/big.png": Photo(2, "pear", ORANGE),
            "pear/new.png": Photo(2, "pear", OLIVE),
        },
        rejects={"pear/empty.jpg": ("empty", 1), "pear/notes.jpg": ("not_an_image", 2)},
    ),
    # An erasure of all that is anna's was killed when `features` had lost her two rows: not yet counted, their file
    # still there, her projections, her reject, her archived photos, plan and result too. Since then she and ben landed
    # a photo each, and hers of then stays: it came after she asked.
    "erasure-cut-off": Stored(
        landing="file:///tmp/fruits-homes/erasure-cut-off/home/landing",
        there=("state/erasures.json", "state/erased_rows.json", "state/lease.json", "archive/anna/kiwi/0.*.png"),
        lacking=("reports",),
        batches=[(2, False)],
        days={1: WEDNESDAY},
        photos={
            "ben/pear/0.png": Photo(1, "pear", BLUE, "ben"),
            "ben/pear/new.png": Photo(2, "pear", OLIVE, "ben"),
            "anna/lime/new.png": Photo(2, "lime", PLUM, "anna"),
        },
        rejects={"ben/pear/notes.jpg": ("not_an_image", 1)},
        settings={"key_pattern": PATTERN, "clean": "archive"},
    ),
    # Batches 1 to 3 are in a snapshot alone. The row of batch 1 has expired while its photo, `kiwi/old.png`, stayed in
    # the landing: only the snapshot tells that it was taken. Version 2 is on its way to be served.
    "snapshot-only": Stored(
        landing="file:///tmp/fruits-homes/snapshot-only/home/landing",
        there=("state/snapshots/000000000003.sqlite", "state/expired.json", "landing/kiwi/old.png"),
        lacking=("state/batches/*",),
        batches=[(4, False)],
        days={2: WEDNESDAY, 3: THURSDAY},
        photos={
            "kiwi/0.png": Photo(2, "kiwi", RED),
            "kiwi/1.jpg": Photo(2, "kiwi", GREEN),
            "pear/0.png": Photo(2, "pear", BLUE),
            "kiwi/2.png": Photo(3, "kiwi", CYAN),
            "pear/new.png": Photo(4, "pear", OLIVE),
        },
        rejects={"pear/notes.jpg": ("not_an_image", 2)},
        versions=(1, 2),
    ),
    # Only the tables tell what was taken, and under which name of the landing.
    "state-lost": Stored(
        landing="file:///tmp/fruits-homes/state-lost/home/landing",
        there=("features/_delta_log/00000000000000000001.json",),
        lacking=("state",),
        batches=[(2, False)],
        days={1: WEDNESDAY},
        photos={**FIRST_BATCH, "pear/new.png": Photo(2, "pear", OLIVE)},
        rejects=NOTES,
    ),
    # The landing lies beside the home; batch 2 is planned and not worked. There is no model.
    "external-landing": Stored(
        landing="file:///tmp/fruits-homes/external-landing/photos",
        there=("../photos/kiwi/0.png", "state/batches/000000000002.plan.json"),
        lacking=("landing", "state/batches/000000000002.result.json"),
        batches=[(2, False), (3, False)],
        days={1: WEDNESDAY, 2: SATURDAY},
        photos={
            "kiwi/0.png": Photo(1, "kiwi", RED),
            "kiwi/1.jpg": Photo(2, "kiwi", GREEN),
            "pear/new.png": Photo(3, "pear", OLIVE),
        },
        rejects=NOTES,
        versions=(),
    ),
    # It had moved once before it was stored: batch 1 is of its first place, batch 2 of the second, where batch 3 was
    # planned and not worked.
    "moved": Stored(
        landing="file:///tmp/fruits-homes/moved/first-place/landing",
        there=("state/batches/000000000003.plan.json",),
        lacking=("state/batches/000000000003.result.json",),
        batches=[(3, False), (4, False)],
        days={1: WEDNESDAY, 2: SATURDAY, 3: SATURDAY},
        photos={
            "kiwi/0.png": Photo(1, "kiwi", RED),
            "kiwi/1.jpg": Photo(1, "kiwi", GREEN),
            "pear/0.png": Photo(2, "pear", BLUE),
            "pear/1.png": Photo(3, "pear", PLUM),
            "pear/new.png": Photo(4, "pear", OLIVE),
        },
        rejects=NOTES,
    ),
    # One label in two forms of its accents; each form has a photo that is new, under the same name. There is no model.
    "nfd-names": Stored(
        landing="file:///tmp/fruits-homes/nfd-names/home/landing",
        there=(f"landing/{DECOMPOSED}/{ETE}-0.png", f"landing/{COMPOSED}/1.jpg"),
        lacking=("state/batches/000000000002.plan.json",),
        batches=[(2, False)],
        days={1: WEDNESDAY},
        photos={
            f"{DECOMPOSED}/{ETE}-0.png": Photo(1, COMPOSED, RED),
            f"{COMPOSED}/1.jpg": Photo(1, COMPOSED, GREEN),
            f"{DECOMPOSED}/new.png": Photo(2, COMPOSED, OLIVE),
            f"{COMPOSED}/new.png": Photo(2, COMPOSED, PLUM),
        },
        rejects={f"{DECOMPOSED}/notes.jpg": ("not_an_image", 1)},
        versions=(),
    ),
}

SPECIAL = {"erasure-cut-off", "external-landing", "snapshot-only"}


@pytest.fixture(autouse=True)
def little_patience_with_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    # The claims of streams that were killed are another machine's, and are watched for a minute otherwise.
    monkeypatch.setattr(claim, "TAKEN_OVER_AFTER_S", 0.1)
    monkeypatch.setattr(claim, "LOOK_S", 0.05)


@pytest.mark.parametrize("name", sorted(HOMES.keys() - SPECIAL))
def test_a_home_of_before_is_taken_up(name: str, tmp_path: Path, drain: Drain) -> None:
    settings = _unpacked(name, tmp_path)

    _drain(name, settings, drain)

    _check(name, settings)


@pytest.mark.parametrize("name", ["result-without-commit", "unfinished-plan"])
def test_a_home_of_before_has_answers_to_what_is_committed_from_now_on(name: str, tmp_path: Path, drain: Drain) -> None:
    settings = _unpacked(name, tmp_path, answers=True)
    before = open_tables(settings.places()).committed_to_all
    drain(settings)
    home = settings.places()
    found = "SELECT source FROM features WHERE batch > {0} UNION SELECT source FROM rejects WHERE batch > {0}"
    keys = [home.landing_of(row["source"]) for row in rows(settings, found.format(before))]
    expected = sorted(answer_key(key[1]) for key in keys if key is not None)
    assert expected and sorted(keys_below(home.answers)) == expected
    assert answered_through(home) == open_tables(home).committed_to_all > before


@pytest.mark.processes
def test_a_landing_that_moved_beside_its_home_is_taken_up_by_its_former_name(tmp_path: Path, drain: Drain) -> None:
    settings = _unpacked("external-landing", tmp_path, landing=str(tmp_path / "photos"))
    # As `fruits stream --moved-from` does it: nobody else could tell that these are the same photos.
    remember_landing(settings.locations(), moved_from=HOMES["external-landing"].landing)

    _drain("external-landing", settings, drain)

    _check("external-landing", settings)


@pytest.mark.processes
def test_an_erasure_that_was_cut_off_goes_on_and_spares_what_came_after_it(tmp_path: Path, drain: Drain) -> None:
    settings = _unpacked("erasure-cut-off", tmp_path)
    home = Path(settings.home)
    [asked] = json.loads((home / "state/erasures.json").read_text())["erasures"]
    # The rows are gone from `features` alone; the bytes of what was asked for are nearly everywhere.
    hers = [row["image_id"] for row in rows(settings, "SELECT image_id FROM projections WHERE subject = 'anna'")]
    assert len(hers) == 2
    assert rows(settings, "SELECT * FROM features WHERE subject = 'anna'") == []
    assert {name.partition("/")[0] for name in _files_that_hold(home, "anna/kiwi", *hers)} == {
        # The landing has only her empty folder.
        *("archive", "features", "landing", "projections", "rejects", "state")
    }
    assert "is not finished" in " ".join(read_status(settings.places(), verify=True).broken or [])

    _drain("erasure-cut-off", settings, drain)
    again = ["erase", "--subject", "anna", "--key-pattern", PATTERN, "--yes", "--home", settings.home]
    done = CliRunner().invoke(app, again)

    assert done.exit_code == 0, done.output
    _check("erasure-cut-off", settings)
    assert _files_that_hold(home, "anna/kiwi", *hers) == set()
    # The request has its own time and its certificate; who asks for the same later asks for something new.
    [finished] = json.loads((home / "state/erasures.json").read_text())["erasures"]
    certificate = json.loads((home / f"reports/erasures/{asked['id']}.json").read_text())
    assert (finished["id"], finished["before"]) == (asked["id"], asked["before"])
    assert (certificate["asked_at"], certificate["finished_at"]) == (asked["before"], finished["finished_at"])
    erased = json.loads((home / "state/erased_rows.json").read_text())
    assert erased == {"rows": {"features": {WEDNESDAY: {"1": 2}}, "rejects": {WEDNESDAY: {"1": 1}}}, "pending": None}
    archived = sorted(path.name.partition(".")[0] for path in (home / "archive").rglob("*.*"))
    assert archived == ["0", "new", "new", "notes"]


@pytest.mark.processes
def test_a_snapshot_alone_tells_what_was_taken_and_a_switch_of_models_goes_on(
    tmp_path: Path, drain: Drain, spark: SparkSession
) -> None:
    settings = _unpacked("snapshot-only", tmp_path)
    home, pointer = settings.places(), Path(settings.home, "models/pca/current/CURRENT.json")
    assert {name: json.loads(pointer.read_text())[name] for name in ("serving", "next")} == {"serving": 1, "next": 2}

    _drain("snapshot-only", settings, drain)
    of_the_next = "SELECT batch FROM projections WHERE pca_version = 2"
    assert rows(settings, of_the_next) == [{"batch": 4}]
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    # Sums of that release know no labels, so all rows are read once more.
    fitted = refit(spark.sparkContext, home, RefitOptions(2, None, 2), True, False, lambda _, __: None)

    _check("snapshot-only", settings)
    featurizer = describe_model(home, 2).featurizer
    served = {"serving": 2, "next": None, "nonce": None, "featurizer": featurizer}
    assert json.loads(pointer.read_text()) == served
    assert (fitted.rows_stored, fitted.rows_read, fitted.meta.version, fitted.meta.parent) == (0, 5, 3, 2)


def _unpacked(name: str, folder: Path, **flags: Any) -> Settings:
    stored = HOMES[name]
    with tarfile.open(STORED / f"{name}.tar.xz", encoding="utf-8") as tar:
        tar.extractall(folder, filter="data")
    home = folder / "home"
    assert all(any(home.glob(pattern)) for pattern in stored.there)
    assert not any(any(home.glob(pattern)) for pattern in stored.lacking)
    return load_settings(home=str(home), trigger="100ms", settle="0s", **stored.settings, **flags)


def _drain(name: str, settings: Settings, drain: Drain) -> None:
    """One run of the stream: it reports these batches, and no row that stood before is another one after it."""
    before = {table: rows(settings, f"SELECT * FROM {table}") for table in ("features", "projections")}
    run = drain(settings)
    assert [(report.batch, report.replayed) for report in run.reports] == HOMES[name].batches
    for table, standing in before.items():
        after = rows(settings, f"SELECT * FROM {table}")
        assert all(after.count(row) == 1 for row in standing)


def _check(name: str, settings: Settings) -> None:
    """All rows are those that must be, once each, with what belongs to them, and nothing waits or is left to do."""
    stored = HOMES[name]
    sql = "SELECT source, batch, label, subject, ingest_date, features FROM features ORDER BY source"
    photos = rows(settings, sql)
    expected = sorted(stored.photos.items())
    assert [(row["source"], row["batch"], row["label"], row["subject"]) for row in photos] == [
        (f"{stored.landing}/{key}", photo.batch, photo.label, photo.subject) for key, photo in expected
    ]
    for row, (key, photo) in zip(photos, expected, strict=True):
        # JPEG changes a colour by a level or two.
        levels = 3 if key.endswith(".jpg") else 0.01
        np.testing.assert_allclose(row["features"], _features(photo.colour), atol=levels * 6 / 255)
    rejects = rows(settings, "SELECT source, reason, batch, ingest_date FROM rejects ORDER BY source")
    assert [(row["source"], (row["reason"], row["batch"])) for row in rejects] == [
        (f"{stored.landing}/{key}", reject) for key, reject in sorted(stored.rejects.items())
    ]
    _check_days(stored, [*photos, *rejects])
    _check_projections(stored, settings, photos)
    status = read_status(settings.places(), verify=True)
    assert (status.broken, status.unfinished_batches, status.backlog.files) == ([], [], 0)
    # Nothing is asked for any more, what is kept has the names it had, and the next batch would have the next number.
    home = Path(settings.home)
    assert list(home.glob("state/requests/*")) == []
    assert {path.name for path in home.iterdir()} <= PLACES
    assert {path.name for path in (home / "state").iterdir()} <= STATE
    assert json.loads((home / "state/home.json").read_text())["landings"][0]["name"] == stored.landing
    assert {table.name: table.last_batch for table in status.tables} == dict.fromkeys(
        ("features", "projections", "rejects"), stored.batches[-1][0]
    )


def _features(colour: tuple[int, int, int]) -> list[float]:
    """What the network of these homes makes of a picture of one colour: 1280 times red, green or blue, in 0 to 6.

    It averages squares of 8 x 8 pixels and gives numbers 536 to 1815 of the 28 x 28 x 3 that these are.
    """
    return [colour[number % 3] * 6 / 255 for number in range(536, 1816)]


def _check_days(stored: Stored, outcomes: list[dict[str, Any]]) -> None:
    for row in outcomes:
        day = row["ingest_date"].isoformat()
        if row["batch"] in stored.days:
            assert day == stored.days[row["batch"]]
        else:
            # The test may last until after midnight.
            assert SATURDAY <= day <= datetime.now(UTC).date().isoformat()


def _check_projections(stored: Stored, settings: Settings, photos: list[dict[str, Any]]) -> None:
    sql = "SELECT pca_version, source, batch, label, pca FROM projections ORDER BY pca_version, source"
    found = rows(settings, sql)
    assert [(row["pca_version"], row["source"], row["batch"], row["label"]) for row in found] == [
        (version, photo["source"], photo["batch"], photo["label"]) for version in stored.versions for photo in photos
    ]
    for row, photo in zip(found, photos * len(stored.versions), strict=True):
        with np.load(Path(settings.home, f"models/pca/v{row['pca_version']:06d}/model.npz")) as model:
            projected = model["components"] @ (np.asarray(photo["features"], np.float64) - model["mean"])
        np.testing.assert_allclose(row["pca"], projected, rtol=1e-4, atol=1e-4)


def _files_that_hold(home: Path, *texts: str) -> set[str]:
    """The files of a home of which the name or the bytes hold one of the texts; parquet is read without compression."""
    return {name for name, body in _files(home) if any(text.encode() in name.encode() + b"\0" + body for text in texts)}


def _files(home: Path) -> Iterator[tuple[str, bytes]]:
    for path in home.rglob("*"):
        name = path.relative_to(home).as_posix()
        if path.is_file():
            yield name, path.read_bytes()
        else:
            yield name, b""
        if path.suffix == ".parquet":
            plain = io.BytesIO()
            pq.write_table(
                pq.read_table(io.BytesIO(path.read_bytes())), plain, compression="none", use_dictionary=False
            )
            yield name, plain.getvalue()
