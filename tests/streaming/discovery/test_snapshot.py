"""A start costs what is new since the last snapshot; without one it finds the same in the tables."""

import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from store.home import Home
from store.objects.landing import LandedObject
from store.objects.operations import delete_all, keys_below, overwrite, read
from store.settings import Settings
from store.state.plans import ATTEMPT_LIMIT, BatchCounters, Plan, Result, planned_batches, write_plan, write_result
from store.tables.commits import commit
from store.tables.files import write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, REJECT_ROWS, TABLES
from streaming.discovery.processed_index import ProcessedEntry, identity
from streaming.discovery.snapshot import in_tables, load_processed_index, write_snapshot

NOW = datetime.now(UTC)
MakeSettings = Callable[..., Settings]


@pytest.fixture(params=["disk", "S3"])
def home(request: pytest.FixtureRequest) -> Home:
    made: Home = request.getfixturevalue("local_settings" if request.param == "disk" else "s3_settings")().places()
    create_tables(made)
    return made


@pytest.fixture
def on_disk(local_settings: MakeSettings) -> Home:
    """A home whose files a test can lay hands on."""
    made = local_settings().places()
    create_tables(made)
    return made


def _objects(batch: int, count: int = 4) -> tuple[LandedObject, ...]:
    return tuple(
        LandedObject(f"kiwi/{batch}-{n}.jpg", 100, f"{batch:x}{n:x}", NOW + timedelta(minutes=batch))
        for n in range(count)
    )


def _plan(home: Home, batch: int) -> Plan:
    return Plan(batch, "nonce", NOW, NOW.date(), home.landing.uri, "", "unused", _objects(batch))


def _run(home: Home, batch: int) -> None:
    """A batch as the stream leaves it: its first object is a photo, the others are rejects."""
    plan = _plan(home, batch)
    write_plan(home, plan)
    adds = {}
    for table, objects in ((FEATURE_ROWS, plan.objects[:1]), (REJECT_ROWS, plan.objects[1:])):
        rows = {column.name: [None] * len(objects) for column in table.file_schema}
        rows |= {"source": [home.landing.uri_of(one.key) for one in objects], "etag": [one.etag for one in objects]}
        rows |= {"arrived_at": [one.arrived_at for one in objects], "ingested_at": [NOW] * len(objects)}
        rows |= {"batch": [batch] * len(objects)}
        adds[table.name] = (write_file(home, table, rows, {"ingest_date": NOW.date().isoformat()}),)
    rejected = tuple(one.key for one in plan.objects[1:])
    write_result(home, Result(batch, "nonce", NOW, adds, rejected, BatchCounters(1, {"corrupt": 3})))
    for table in TABLES:
        commit(home, table, batch, "nonce", adds.get(table.name, ()))


def _known(home: Home, file: Path, batches: int) -> list[list[ProcessedEntry | None]]:
    seen = load_processed_index(home, file)
    found = []
    for batch in range(1, batches + 1):
        identities = [identity(home.landing, one) for one in _objects(batch)]
        known = seen.entries(identities)
        found.append([known.get(one) for one in identities])
    seen.close()
    return found


def test_snapshot_results_and_tables_tell_the_same(home: Home, tmp_path: Path) -> None:
    for batch in (1, 2, 3):
        _run(home, batch)
    write_plan(home, _plan(home, 4))
    at_s = int(NOW.timestamp())

    def known(batch: int, outcomes: list[bool | None]) -> list[ProcessedEntry]:
        return [ProcessedEntry(batch, at_s + 60 * batch, at_s, featurized) for featurized in outcomes]

    expected = [*(known(batch, [True, False, False, False]) for batch in (1, 2, 3)), known(4, [None] * 4)]

    from_results = load_processed_index(home, tmp_path / "results.sqlite")
    assert _known(home, tmp_path / "again.sqlite", 4) == expected
    assert [(day.batches, day.photos, day.rejects) for day in from_results.days] == [(3, 3, 9)]

    write_snapshot(home, from_results)
    _delete_states(home, range(1, 4))
    assert _known(home, tmp_path / "snapshot.sqlite", 4) == expected
    with_snapshot = load_processed_index(home, tmp_path / "with.sqlite")
    assert [(day.batches, day.photos, day.rejects) for day in with_snapshot.days] == [(3, 3, 9)]

    _damage_snapshot(home, 3)
    assert _known(home, tmp_path / "tables.sqlite", 4) == expected
    assert load_processed_index(home, tmp_path / "last.sqlite").info.days_since == 3


def test_a_snapshot_of_tables_that_were_made_anew_is_not_used(on_disk: Home, tmp_path: Path) -> None:
    _run(on_disk, 1)
    write_snapshot(on_disk, load_processed_index(on_disk, tmp_path / "first.sqlite"))
    for table in TABLES:
        shutil.rmtree(on_disk.root.child(table.name).directory)
    shutil.rmtree(on_disk.batches.directory)
    create_tables(on_disk)
    assert _known(on_disk, tmp_path / "second.sqlite", 1) == [[None] * 4]


def test_a_snapshot_made_for_another_landing_leaves_nothing_of_this_one_out(
    on_disk: Home, local_settings: MakeSettings, tmp_path: Path
) -> None:
    _run(on_disk, 1)
    elsewhere = local_settings(landing=str(tmp_path / "elsewhere")).places()
    seen = load_processed_index(elsewhere, tmp_path / "first.sqlite")
    seen.forget(NOW + timedelta(days=1), NOW)
    write_snapshot(elsewhere, seen)
    _delete_states(on_disk, [1])
    [known] = _known(on_disk, tmp_path / "second.sqlite", 1)
    assert [one is not None for one in known] == [True] * 4


def test_a_snapshot_takes_the_place_of_older_ones_and_of_plans_that_nobody_can_have_in_hand(
    on_disk: Home, tmp_path: Path
) -> None:
    for batch in (1, 2):
        _run(on_disk, batch)
        write_snapshot(on_disk, load_processed_index(on_disk, tmp_path / f"{batch}.sqlite"))
    assert [path.name for path in on_disk.snapshots.directory.iterdir()] == ["000000000002.sqlite"]
    assert planned_batches(on_disk) == [1, 2]

    two_attempts_ago_s = time.time() - 2 * ATTEMPT_LIMIT.total_seconds() - 60
    for path in on_disk.batches.directory.iterdir():
        os.utime(path, (two_attempts_ago_s, two_attempts_ago_s))
    write_plan(on_disk, _plan(on_disk, 3))
    write_snapshot(on_disk, load_processed_index(on_disk, tmp_path / "3.sqlite"))
    assert [path.name for path in on_disk.batches.directory.iterdir()] == ["000000000003.plan.json"]


def test_what_a_restored_table_no_longer_holds_is_not_taken_for_done(on_disk: Home, tmp_path: Path) -> None:
    for batch in (1, 2):
        _run(on_disk, batch)
    write_snapshot(on_disk, load_processed_index(on_disk, tmp_path / "first.sqlite"))
    DeltaTable(str(on_disk.features.directory)).restore(1)
    first, second = _known(on_disk, tmp_path / "second.sqlite", 2)
    assert [one is not None for one in first] == [True] * 4
    assert [one is not None for one in second] == [False, True, True, True]


def test_a_start_after_a_lost_state_counts_only_the_days_of_what_came_since(on_disk: Home, tmp_path: Path) -> None:
    for batch in (1, 2):
        _run(on_disk, batch)
    # As a kill between two commits leaves it: only `features` holds the second batch.
    for table in TABLES[1:]:
        (on_disk.root.child(table.name).directory / "_delta_log/00000000000000000002.json").unlink()
    shutil.rmtree(on_disk.state.directory)
    assert load_processed_index(on_disk, tmp_path / "first.sqlite").info.days_since == 2


def test_the_tables_are_asked_for_what_is_no_longer_remembered(home: Home) -> None:
    for batch in (1, 2):
        _run(home, batch)
    replaced = LandedObject("kiwi/1-0.jpg", 100, "another", NOW)
    asked = [*_objects(1), *_objects(3), replaced]
    assert in_tables(home, asked) == {identity(home.landing, one) for one in _objects(1)}


def _delete_states(home: Home, batches: "range | list[int]") -> None:

    doomed = [key for key in keys_below(home.batches) if int(key.split(".")[0]) in batches]
    assert delete_all(home.batches, doomed) == 2 * len(batches)


def _damage_snapshot(home: Home, batch: int) -> None:

    key = f"{batch:012d}.sqlite"
    body = bytearray(read(home.snapshots, key))
    # Within the file: its head is sound.
    body[-4096:] = bytes(4096)
    overwrite(home.snapshots, key, bytes(body))
