"""A home that moves keeps its photos' rows, and a copy of a home never touches the original."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from batch.erase.erase import ErasureRequest, erase
from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from bootstrap.weights.weights import CompiledNetwork
from features.errors import InvalidSetting
from ops.rejects import RejectFilter, find_version, rejects_of, select_retries, source_of
from ops.status.status import read_status
from store.settings import Settings, load_settings
from store.state.landing_names import UnknownLanding, remember_landing
from store.state.retries import request_retries
from store.tables import handles
from store.tables.schemas import TABLES
from streaming.discovery.snapshot import load_processed_index, write_snapshot
from tests.support.feature_rows import serve_a_model
from tests.support.ingested import ingest
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, drop, forget_names, rows, run_here, with_featurizer

Drain = Callable[[Settings], Run]

PHOTOS = {
    f"{label}/{number}.jpg": jpeg(seed=10 * len(label) + number) for number in range(3) for label in ("kiwi", "pear")
}
NOTES = "kiwi/notes.jpg"


@pytest.fixture(scope="module")
def finished(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with its landing inside, and a row for each of its files."""
    home = tmp_path_factory.mktemp("first") / "home"
    settings = with_featurizer(_at(home), untrained)
    serve_a_model(settings.places())
    drop(settings, {**PHOTOS, NOTES: text_file()})
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return home


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, with the modification times, as `cp -a` makes it."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def _at(home: Path, **flags: Any) -> Settings:
    return load_settings(home=str(home), trigger="100ms", settle="0s", **flags)


def _sources(settings: Settings) -> list[str]:
    return [row["source"] for row in rows(settings, "SELECT source FROM features UNION ALL SELECT source FROM rejects")]


def _moved(home: Path) -> Settings:
    return _at(Path(shutil.move(home, home.parent / "moved")))


def _unplanned(home: Path) -> None:
    for table in TABLES:
        shutil.rmtree(home / table.name)
    (home / "state/batches/000000000001.result.json").unlink()


def _uncommitted(home: Path) -> None:
    for table in TABLES:
        (home / table.name / "_delta_log/00000000000000000001.json").unlink()


def _committed(home: Path) -> None:
    assert (home / "rejects/_delta_log/00000000000000000001.json").exists()


def _bytes_of(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("as_killed", "names_are_kept"),
    [
        (_unplanned, True),
        (_committed, False),
        pytest.param(_uncommitted, True, marks=pytest.mark.processes),
        pytest.param(_uncommitted, False, marks=pytest.mark.processes),
    ],
)
def test_a_home_that_was_moved_at_any_step_ends_with_one_row_a_photo(
    finished: Path, copied: Path, drain: Drain, as_killed: Callable[[Path], None], names_are_kept: bool
) -> None:
    as_killed(copied)
    if not names_are_kept:
        forget_names(copied)
    moved = _moved(copied)

    drain(moved)

    assert sorted(_sources(moved)) == sorted(f"file://{finished}/landing/{key}" for key in (*PHOTOS, NOTES))
    status = read_status(moved.places(), verify=True)
    assert (status.broken, status.backlog.files) == ([], 0)


def test_a_home_made_before_names_were_kept_is_known_again_when_the_place_it_left_is_gone(
    drain: Drain, tmp_path: Path, untrained: CompiledNetwork
) -> None:
    home = tmp_path / "home"
    ingest(_with_a_photo(_at(home), untrained))
    forget_names(home)
    moved = _moved(home)

    assert drain(moved).reports == []
    assert _sources(moved) == [f"file://{home}/landing/kiwi/0.jpg"]


def _only_a_snapshot(home: Path) -> None:
    settings = _at(home)
    seen = load_processed_index(settings.places(), home.parent / "seen.sqlite")
    write_snapshot(settings.places(), seen)
    shutil.rmtree(home / "state/batches")
    (home / "state/stream.json").unlink()


def _only_a_sign_of_life(home: Path) -> None:
    shutil.rmtree(home / "state/batches")


@pytest.mark.parametrize("left", [_only_a_snapshot, _only_a_sign_of_life])
def test_a_home_made_before_names_were_kept_takes_them_from_whatever_still_tells_them(
    finished: Path, copied: Path, left: Callable[[Path], None]
) -> None:
    left(copied)
    forget_names(copied)

    assert _name_of_the_landing(_at(copied)) == f"file://{finished}/landing"


@pytest.mark.parametrize("is_maintained", [False, pytest.param(True, marks=pytest.mark.processes)])
def test_commits_tell_the_names_to_a_home_that_lost_its_state(
    copied: Path, drain: Drain, is_maintained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _at(copied)
    if is_maintained:
        # Another photo, so that there is something to make one file of, and every old entry of the log goes.
        (copied / "landing/kiwi/late.jpg").write_bytes(jpeg(seed=77))
        drain(settings)
        monkeypatch.setitem(handles.RETENTION, "delta.logRetentionDuration", "interval 0 days")
        maintain(settings.places(), Retention(), print, lambda _: None)
        assert len(list((copied / "features/_delta_log").glob("*.json"))) < 3
    shutil.rmtree(copied / "state")
    moved = _moved(copied)
    before = len(_sources(moved))

    assert drain(moved).reports == []
    assert len(_sources(moved)) == before
    assert read_status(moved.places(), verify=True).broken == []


def test_a_home_is_the_same_by_way_of_a_link(finished: Path, copied: Path) -> None:
    link = copied.parent / "link"
    link.symlink_to(copied)
    forget_names(copied)

    for settings in (_at(link), _at(copied, landing=str(link / "landing"))):
        assert _name_of_the_landing(settings) == f"file://{finished}/landing"


def test_a_landing_elsewhere_keeps_its_name_by_way_of_a_link_and_when_the_home_moves(
    drain: Drain, tmp_path: Path, untrained: CompiledNetwork
) -> None:
    home, photos, link = tmp_path / "home", tmp_path / "photos", tmp_path / "link"
    ingest(_with_a_photo(_at(home, landing=str(photos)), untrained))
    link.symlink_to(photos)
    moved = Path(shutil.move(home, tmp_path / "moved"))
    # Another landing is another name, though its files have the same keys.
    shutil.copytree(photos, tmp_path / "more")
    assert drain(_at(moved, landing=str(tmp_path / "more"))).photos == 1

    (photos / "kiwi/1.jpg").write_bytes(jpeg(seed=6))
    assert drain(_at(moved, landing=str(link))).photos == 1
    for landing in (link, photos):
        assert _name_of_the_landing(_at(moved, landing=str(landing))) == f"file://{photos}"


def test_rows_below_no_known_name_stop_the_stream_until_somebody_says_what_they_are(
    copied: Path, finished: Path, drain: Drain
) -> None:
    forget_names(copied)
    shutil.rmtree(copied / "state")
    settings = _at(copied)

    with pytest.raises(
        UnknownLanding, match=rf"^6 rows are of objects below file://{finished}/landing, no landing .*--moved-from"
    ):
        drain(settings)
    remember_landing(settings.locations(), moved_from=f"{finished}/landing")
    assert drain(settings).reports == []
    with pytest.raises(InvalidSetting, match=r"has the name .* already"):
        remember_landing(settings.locations(), moved_from="/elsewhere/landing")


def test_rows_of_a_former_landing_stay_what_they_are(copied: Path, finished: Path) -> None:
    forget_names(copied)
    shutil.rmtree(copied / "state")
    settings = _at(copied, landing=str(copied.parent / "photos"))
    remember_landing(settings.locations(), former=[f"{finished}/landing"])

    assert _name_of_the_landing(settings) == f"file://{copied.parent}/photos"
    assert json.loads((copied / "state/home.json").read_text())["landings"] == [
        {"name": f"file://{copied.parent}/photos", "location": f"file://{copied.parent}/photos"},
        {"name": f"file://{finished}/landing", "location": f"file://{finished}/landing"},
    ]


def test_a_reject_is_shown_and_tried_again_where_the_home_lies_now(copied: Path, drain: Drain) -> None:
    settings = _at(copied)
    home = settings.places()
    wanted = select_retries(home, RejectFilter(sources=(source_of(home, NOTES),)))
    request_retries(home, home.landing.source, wanted.retries, wanted.erasures_begun)
    moved = _moved(copied)
    places = moved.places()

    [report] = drain(moved).reports

    assert report.rejects == {"not_an_image": 1}
    [reject] = rejects_of(places, source_of(places, NOTES))
    assert (reject.batch, find_version(places, reject).place) == (2, "landing")
    today = f"file://{moved.home}/landing/{NOTES}"
    assert reject.source == source_of(places, NOTES) == source_of(places, today)
    assert read_status(places, verify=True).broken == []


def test_what_is_erased_in_a_home_that_has_moved_is_gone_by_todays_uri(copied: Path) -> None:
    moved = _moved(copied)
    home = moved.places()

    certificate = erase(
        home, ErasureRequest("source", f"file://{moved.home}/landing/kiwi/1.jpg"), print, lambda _, __: None, copy_s=0
    )

    assert (certificate.removed["features rows"], certificate.removed["landing"]) == (1, 1)
    assert not (Path(moved.home) / "landing/kiwi/1.jpg").exists()
    assert not any(source.endswith("kiwi/1.jpg") for source in _sources(moved))
    assert read_status(home, verify=True).broken == []


@pytest.mark.parametrize(
    "names_are_kept", [pytest.param(True, marks=pytest.mark.processes), False], ids=["names kept", "made before"]
)
def test_work_on_a_copy_leaves_the_original_equal_to_the_byte(
    finished: Path, copied: Path, drain: Drain, names_are_kept: bool
) -> None:
    _unplanned(copied)
    if not names_are_kept:
        forget_names(copied)
    before = _bytes_of(finished)
    settings = _at(copied, clean="delete", key_pattern=r"^(?P<subject>[^/]+)/")

    drain(settings)
    erase(
        settings.places(),
        ErasureRequest("subject", "kiwi", (settings.key_pattern,)),
        print,
        lambda _, __: None,
        copy_s=0,
    )
    erase(settings.places(), ErasureRequest("source", "pear/1.jpg"), print, lambda _, __: None, copy_s=0)

    assert not (copied / "landing/pear/0.jpg").exists()
    assert len(_sources(settings)) == 2
    assert _bytes_of(finished) == before


@pytest.mark.parametrize("place", ["landing", "archive"])
def test_a_landing_or_an_archive_in_another_home_is_refused(finished: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^The {place} .* lies in another home, {finished}; "):
        _at(tmp_path / "home", **{place: str(finished / place)}).places()


def test_photos_that_were_doubled_under_two_names_are_told(copied: Path, drain: Drain, finished: Path) -> None:
    settings = _at(copied)
    places = settings.places()
    # What a stream did that knew no names.
    (copied / "state/home.json").unlink()
    record = {"made_at": "2026-10-03T00:00:00Z"}
    record["landings"] = [{"name": places.landing.uri, "location": "landing"}]
    record["landings"] += [{"name": places.landing.source, "location": "landing"}]
    (copied / "state/home.json").write_text(json.dumps(record))
    drain(settings)

    assert "6 photos have rows under two names of a landing: doubled." in (
        read_status(settings.places(), verify=True).broken or []
    )


def _with_a_photo(settings: Settings, network: CompiledNetwork) -> Settings:
    drop(settings, {"kiwi/0.jpg": jpeg(seed=5)})
    return with_featurizer(settings, network)


def _name_of_the_landing(settings: Settings) -> str:
    """The name below which rows are looked for and written; with the right one a start takes nothing again."""
    return remember_landing(settings.locations()).landing.source
