"""A batch is in a table once, whoever commits it."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError

from features.errors import InvalidSetting
from store.errors import AnotherStreamRunning, StateDamaged
from store.home import Home
from store.settings import load_settings
from store.state.plans import AddedFile, BatchCounters, Plan, Result, write_plan, write_result
from store.tables.commits import _additions, _write, append_once, commit
from store.tables.files import write_file
from store.tables.handles import APPLICATION, committed_batch, create_tables, open_table
from store.tables.schemas import FEATURE_ROWS, REJECT_ROWS

DAY = date(2026, 10, 3)


@pytest.fixture
def home(home: Home) -> Home:
    """A home with its tables."""
    create_tables(home)
    return home


def _file(home: Home, detail: str) -> AddedFile:
    row = {name: [None] for name in REJECT_ROWS.file_schema.names} | {"detail": [detail]}
    return write_file(home, REJECT_ROWS, row, {"ingest_date": "2026-10-03"})


def _details(home: Home) -> list[str]:
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    return list(handle.to_pyarrow_table(columns=["detail"])["detail"].to_pylist())


def test_a_table_that_is_gone_is_not_made_anew_while_results_name_its_files(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path)).places()
    create_tables(home)
    write_plan(home, Plan(1, "n", datetime.now(UTC), DAY, home.landing.uri, "", "f", ()))
    added = AddedFile("ingest_date=2026-10-03/part-1.parquet", 1, 1, {"ingest_date": "2026-10-03"}, "{}")
    write_result(home, Result(1, "n", datetime.now(UTC), {FEATURE_ROWS.name: (added,)}, (), BatchCounters()))
    shutil.rmtree(home.features.directory)
    with pytest.raises(StateDamaged, match=r"features is gone, but .*/state/batches tells of batches in it"):
        create_tables(home)
    shutil.rmtree(home.state.directory)
    create_tables(home)


def test_a_replayed_commit_changes_nothing(home: Home) -> None:
    commit(home, REJECT_ROWS, 1, "a run", [_file(home, "first")])
    commit(home, REJECT_ROWS, 1, "a later run", [_file(home, "again")])
    assert _details(home) == ["first"]


@pytest.mark.parametrize("name", ["two words", "a#b?c", "höme 🍎"])
def test_a_home_on_disk_may_have_any_name(tmp_path: Path, name: str) -> None:
    home = load_settings(home=str(tmp_path / name)).places()
    create_tables(home)
    commit(home, REJECT_ROWS, 1, "a run", [_file(home, "a row")])
    assert _details(home) == ["a row"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("home", ["s3://bucket/50%20", "s3://bucket/a#b", "/data/50%20", "s3://b/a//c", "s3://b/.."])
def test_a_home_that_tables_cannot_name_is_refused(home: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be a home"):
        load_settings(home=home).places()


def test_a_batch_that_adds_nothing_is_committed_too(home: Home) -> None:
    commit(home, REJECT_ROWS, 3, "a run", [])
    assert committed_batch(open_table(home, REJECT_ROWS)) == 3


def test_a_handle_from_before_a_rivals_commit_is_refused(home: Home) -> None:
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    commit(home, REJECT_ROWS, 1, "a rival", [_file(home, "the rival's")])
    with pytest.raises(CommitFailedError):
        _write(home, REJECT_ROWS, handle, _additions([_file(home, "ours")]), [Transaction(APPLICATION, 1)])
    assert _details(home) == ["the rival's"]


def test_of_rivals_that_commit_at_once_one_wins_and_the_others_stop_or_skip(home: Home) -> None:
    stopped = 0
    for batch in range(1, 4):
        start = threading.Barrier(4)

        def race(name: str, batch: int = batch, start: threading.Barrier = start) -> bool:
            added = _file(home, f"{batch} by {name}")
            start.wait()
            try:
                commit(home, REJECT_ROWS, batch, name, [added])
            except AnotherStreamRunning:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            stopped += sum(pool.map(race, "abcd"))
    assert sorted(int(detail[0]) for detail in _details(home)) == [1, 2, 3]
    assert stopped > 0


def test_of_appends_that_are_begun_at_once_one_is_made(home: Home) -> None:
    start = threading.Barrier(4)

    def race(name: str) -> bool:
        added = _file(home, name)
        start.wait()
        return append_once(home, REJECT_ROWS, "a test", [added], {}, _has_rows)

    with ThreadPoolExecutor(4) as pool:
        appended = list(pool.map(race, "abcd"))
    assert sum(appended) == 1
    assert len(_details(home)) == 1


def _has_rows(handle: DeltaTable) -> bool:
    return bool(handle.file_uris())
