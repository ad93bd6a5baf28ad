"""Rows of networks that are not in use go, and no photo goes with them."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from batch.maintain.compaction import compact, groups_to_compact
from batch.maintain.maintain import maintain
from batch.maintain.networks_out_of_use import PrunedFeatures, prune_features
from batch.maintain.retention import Retention
from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.errors import HomeInUse
from store.home import Home
from store.models.pca_models import featurizers_in_use
from store.objects.operations import overwrite
from store.settings import load_settings
from store.state.plans import Plan, write_plan
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.networks import add_rows, make_newest

DAY, NEXT = date(2026, 10, 3), date(2026, 10, 4)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Photos of two days with rows of `aaa`, which is served, and of `old`, which is not in use."""
    home = load_settings(home=str(tmp_path / "home")).places()
    make_newest(home, "aaa", 1280)
    for batch, day in enumerate([DAY, DAY, NEXT], start=1):
        commit_features(home, batch, day, feature_vectors(3, batch), "aaa")
    add_rows(home, "old")
    overwrite(home.pca_models, "current/CURRENT.json", b'{"serving":null,"next":null,"nonce":null,"featurizer":"aaa"}')
    return home


def _rows(home: Home) -> dict[str, int]:
    found = run_query(connect(home), "SELECT featurizer, count(*) AS n FROM features GROUP BY ALL")
    return {row["featurizer"]: row["n"] for row in found.to_pylist()}


def _photos(home: Home) -> int:
    [found] = run_query(connect(home), "SELECT count(*) AS n FROM ingested_photos").to_pylist()
    return int(found["n"])


def test_whole_files_go(home: Home) -> None:
    assert _rows(home) == {"aaa": 9, "old": 9}
    assert prune_features(home, print) == PrunedFeatures({"old": 9}, {})
    assert _rows(home) == {"aaa": 9}
    assert prune_features(home, print) == PrunedFeatures({}, {})
    assert read_status(home, verify=True).broken == []


def test_the_newest_and_the_served_one_stay(home: Home) -> None:
    make_newest(home, "new")
    add_rows(home, "new", without=["1-0.jpg"])
    assert featurizers_in_use(home, "new") == ("new", "aaa")
    assert prune_features(home, print).dropped == {"old": 9}
    assert _rows(home) == {"aaa": 9, "new": 8}


def test_a_photo_without_another_row_keeps_its_own(home: Home) -> None:
    # Served is a network of which one photo could not be had.
    add_rows(home, "new", without=["1-0.jpg"])
    overwrite(home.pca_models, "current/CURRENT.json", b'{"serving":null,"next":null,"nonce":null,"featurizer":"new"}')
    make_newest(home, "new")
    assert prune_features(home, print) == PrunedFeatures({"aaa": 8, "old": 8}, {"aaa": 1, "old": 1})
    assert _rows(home) == {"new": 8, "aaa": 1, "old": 1}
    assert _photos(home) == 9
    assert read_status(home, verify=True).broken == []


def test_a_file_of_a_former_release_with_rows_of_two_networks_keeps_those_in_use(home: Home) -> None:
    names = {"featurizer": ["aaa", "gone"]}
    commit_features(home, 4, NEXT, feature_vectors(2, 4), "aaa", columns=names)
    add_rows(home, "aaa", 1280)
    assert prune_features(home, print).dropped == {"old": 9, "gone": 1}
    assert _rows(home) == {"aaa": 11}
    assert _photos(home) == 11


def test_a_batch_under_way_is_waited_for(home: Home) -> None:
    now = datetime.now(UTC)
    write_plan(home, Plan(4, "a stream", now, now.date(), home.landing.source, "", "aaa", (), others=("old",)))
    with pytest.raises(HomeInUse, match=r"Batch 4 is planned with featurizer old and not committed yet"):
        prune_features(home, print)
    assert _rows(home) == {"aaa": 9, "old": 9}


def test_files_are_compacted_network_by_network(home: Home) -> None:
    commit_features(home, 4, DAY, feature_vectors(2, 4), "aaa", columns={"featurizer": ["aaa", "old"]})
    before = _rows(home)
    done = list(compact(home, groups_to_compact(home, datetime.now(UTC)), lambda: None))
    assert done
    assert _rows(home) == before
    of_day = [file for file in data_files(open_table(home, FEATURE_ROWS)) if file.partition["ingest_date"] == DAY]
    assert sorted((str(file.network), file.rows) for file in of_day) == [("aaa", 7), ("old", 1), ("old", 6)]


def test_maintenance_treats_the_rows_of_all_networks_alike(home: Home) -> None:
    keep = Retention(rows=datetime.now(UTC).date() - NEXT)
    maintain(home, keep, print, lambda _: None)
    assert _rows(home) == {"aaa": 3, "old": 3}
    assert _photos(home) == 3
    assert read_status(home, verify=True).broken == []
