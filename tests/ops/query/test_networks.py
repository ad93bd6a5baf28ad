"""Each photo is shown once, in the served network, whatever networks made rows of it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from batch.erase.erase import ErasureRequest, erase
from ops.query.named_queries import named_query
from ops.query.query import connect, run_query, to_duckdb
from ops.rejects import count_outcomes
from ops.report.data import collect
from ops.share import share_of
from ops.status.answers import recent_answers
from ops.status.status import read_status
from store.models.registry import current_featurizer
from store.objects.operations import delete_all, keys_below, overwrite
from store.settings import Settings
from tests.support.feature_rows import serve_a_model
from tests.support.ingested import ingest
from tests.support.networks import add_rows, make_newest
from tests.support.pictures import jpeg
from tests.support.stream_run import rows

PHOTOS = 4
NEWEST = "bbb"


@pytest.fixture
def settings(local_settings: Callable[..., Settings]) -> Settings:
    """Four photos and a reject; the newest network has rows of three photos, and another has one of all."""
    settings = local_settings()
    home = settings.places()
    serve_a_model(home)
    for number in range(PHOTOS):
        overwrite(home.landing, f"kiwi/{number}.jpg", jpeg(number, 64, 64))
    overwrite(home.landing, "kiwi/note.txt", b"no picture")
    ingest(settings)
    make_newest(home, NEWEST)
    add_rows(home, NEWEST, without=["/0.jpg"])
    add_rows(home, "aaa")
    return settings


def _asked(settings: Settings, name: str, **given: str) -> list[dict[str, Any]]:
    query = named_query(name)
    found = run_query(connect(settings.places()), to_duckdb(query.sql), query.values(given))
    return list(found.to_pylist())


def _photos(settings: Settings, view: str) -> list[tuple[str, str]]:
    found = rows(settings, f"SELECT source, featurizer FROM {view} ORDER BY source")
    return [(row["source"].rpartition("/")[2], row["featurizer"]) for row in found]


def test_each_photo_is_in_each_view_once(settings: Settings) -> None:
    served = current_featurizer(settings.places())
    [served] = {f for _, f in _photos(settings, "photos")}
    expected = [(f"{number}.jpg", served) for number in range(PHOTOS)]
    for view in ("photos", "current_projections", "ingested_photos"):
        assert _photos(settings, view) == expected
    outcomes = rows(settings, "SELECT outcome, label, count(*) AS n FROM arrivals GROUP BY ALL ORDER BY n")
    assert outcomes == [
        {"outcome": "not_an_image", "label": None, "n": 1},
        {"outcome": "photo", "label": "kiwi", "n": PHOTOS},
    ]


def test_each_photo_counts_once_in_queries_status_and_report(settings: Settings) -> None:
    [day] = _asked(settings, "arrivals")
    assert (day["arrivals"], day["photos"], day["rejects"]) == (PHOTOS + 1, PHOTOS, 1)
    assert [row["photos"] for row in _asked(settings, "latency")] == [PHOTOS]
    assert len(_asked(settings, "find", source="/kiwi/")) == PHOTOS + 1
    home = settings.places()
    found = read_status(home, verify=True)
    assert (found.today.photos, found.today.rejects, found.broken) == (PHOTOS, 1, [])
    assert [(one.featurizer, one.with_rows, one.lacking) for one in found.networks] == [
        (NEWEST, PHOTOS - 1, 1),
        (found.served_featurizer, PHOTOS, 0),
    ]
    assert collect(home).totals["photos"] == PHOTOS
    later = collect(home, since=datetime.now(UTC).date().replace(year=2030))
    assert later.left_out is not None
    assert later.left_out["photos"] == PHOTOS
    assert recent_answers(home).accuracy == share_of(0, 0)


def test_a_photo_without_a_row_of_the_served_network_is_found_and_counted(settings: Settings) -> None:
    home = settings.places()
    key = "current/CURRENT.json"
    overwrite(home.pca_models, key, f'{{"serving":1,"next":null,"nonce":null,"featurizer":"{NEWEST}"}}'.encode())
    assert len(_photos(settings, "photos")) == PHOTOS - 1
    shown = _photos(settings, "ingested_photos")
    assert [name for name, _ in shown] == [f"{number}.jpg" for number in range(PHOTOS)]
    assert [featurizer for _, featurizer in shown] == ["aaa", *[NEWEST] * (PHOTOS - 1)] or shown[0][1] != NEWEST
    [lacks] = _asked(settings, "lacking")
    assert lacks["source"].endswith("/0.jpg")
    assert _asked(settings, "lacking", featurizer="aaa") == []
    assert [row["outcome"] for row in _asked(settings, "find", source="/0.jpg")] == ["photo"]
    assert _asked(settings, "arrivals")[0]["photos"] == PHOTOS


def test_an_erased_photo_counts_once_against_what_its_batch_counted(settings: Settings) -> None:
    home = settings.places()
    erase(home, ErasureRequest("source", "kiwi/1.jpg"), print, lambda _, __: None, copy_s=0)
    assert rows(settings, "SELECT count(*) AS n FROM features WHERE ends_with(source, '/1.jpg')") == [{"n": 0}]
    found = read_status(home, verify=True)
    assert (found.broken, found.backlog.files) == ([], 0)


def test_a_start_without_snapshots_takes_no_second_row_for_a_photo_and_misses_none(settings: Settings) -> None:
    home = settings.places()
    delete_all(home.batches, list(keys_below(home.batches)))
    found = read_status(home, verify=True)
    assert (found.broken, found.backlog.files) == ([], 0)
    assert count_outcomes(home, []) == {}
