"""`status --verify` finds every way in which a promise can be broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from features.settings import Settings, load_settings
from features.tables import FEATURE_ROWS, commit, write_file
from ops.status import look
from tests.pictures import jpeg, text_file
from tests.stream_run import Run

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]


@pytest.fixture
def drained(local_settings: MakeSettings, drain: Drain) -> Settings:
    settings = local_settings()
    landing = settings.places().landing.directory
    landing.mkdir(parents=True)
    for number in range(3):
        (landing / f"{number}.jpg").write_bytes(jpeg(seed=number))
    (landing / "notes.jpg").write_bytes(text_file())
    drain(settings)
    return settings


def test_a_sound_home(drained: Settings) -> None:
    status = look(drained.places(), verify=True)
    assert status.broken == []
    assert status.last_batch is not None
    assert (status.last_batch.batch, status.last_batch.photos, status.last_batch.rejects) == (1, 3, 1)
    assert {table.name: table.rows for table in status.tables} == {"features": 3, "projections": 0, "rejects": 1}
    assert status.backlog.files == 0


def test_the_backlog_is_what_no_batch_holds(drained: Settings) -> None:
    late = drained.places().landing.directory / "late.jpg"
    late.write_bytes(jpeg(seed=9))
    backlog = look(drained.places(), verify=False).backlog
    assert (backlog.files, backlog.bytes) == (1, late.stat().st_size)
    assert backlog.oldest_arrived_at is not None


def test_a_home_where_nothing_ran_is_not_touched(tmp_path: Path) -> None:
    status = look(load_settings(home=str(tmp_path / "typo")).places(), verify=True)
    assert (status.last_batch, status.broken, status.unfinished_batches) == (None, [], [])
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_not_all_tables_hold_is_unfinished(drained: Settings) -> None:
    shutil.rmtree(drained.places().root.directory / "rejects")
    status = look(drained.places(), verify=True)
    assert (status.unfinished_batches, status.broken) == ([1], [])


def test_doubled_rows_are_found(drained: Settings) -> None:
    home = drained.places()
    rows = DeltaTable(home.features.uri).to_pyarrow_table()
    again = {name: rows[name].combine_chunks() for name in FEATURE_ROWS.file_schema.names}
    added = write_file(home, FEATURE_ROWS, again, {"ingest_date": str(rows["ingest_date"][0])})
    commit(home, FEATURE_ROWS, 2, "a wrong hand", [added])
    broken = look(drained.places(), verify=True).broken
    assert broken == [
        "3 objects have more than one row for one arrival: doubled.",
        "1 batches hold other numbers of rows than their results counted.",
    ]


def test_rows_missing_from_a_committed_batch_are_found(drained: Settings) -> None:
    DeltaTable(drained.places().features.uri).delete("width = 320")
    broken = look(drained.places(), verify=True).broken
    assert broken is not None
    assert any("3 planned objects have no row" in sentence for sentence in broken)
