"""Moments of all rows, whatever was stored of them before, deleted, compacted or damaged since."""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from batch import days
from batch.days import Day, digest_of_paths, list_days, split_into_tasks, sum_rows
from batch.refit.stored_sums import delete_unused_sums, read_month, store_of
from batch.refit.sums import SumsOfDays, sum_days
from features.featurizer import FEATURES
from features.pca import Moments, NotFinite, moments_of
from store.errors import JobFailed, StateDamaged
from store.home import Home
from store.objects.operations import keys_below, overwrite, read
from store.settings import load_settings
from store.state.plans import Plan, write_plan
from store.tables.commits import commit
from store.tables.files import DataFile, vectors_column, write_file
from store.tables.handles import create_tables, open_table
from store.tables.schemas import FEATURE_ROWS, TABLES
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, set_rules
from tests.support.feature_rows import describe

OURS = "ours"
DAYS = (date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 3))
MONTH_BEFORE = date(2024, 2, 29)
ROWS = 40


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = load_settings(home=str(tmp_path / "home")).places()
    create_tables(home)
    return home


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with batch n on day n."""
    folder = tmp_path_factory.mktemp("made") / "home"
    home = load_settings(home=str(folder)).places()
    create_tables(home)
    _fill(home)
    return folder


@pytest.fixture(scope="module")
def made_and_summed(spark: SparkSession, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it that has its moments."""
    folder = tmp_path_factory.mktemp("summed") / "home"
    _sum(spark, _copy(made, folder))
    return folder


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Home:
    return _copy(made, tmp_path / "filled")


@pytest.fixture
def summed(made_and_summed: Path, tmp_path: Path) -> Home:
    return _copy(made_and_summed, tmp_path / "summed")


def _copy(made: Path, folder: Path) -> Home:
    shutil.copytree(made, folder)
    return load_settings(home=str(folder)).places()


def _vectors(batch: int, rows: int = ROWS) -> NDArray[np.float32]:
    return np.random.default_rng(batch).uniform(0, 6, (rows, FEATURES)).astype(np.float32)


def _write(
    home: Home,
    batch: int,
    day: date,
    featurizer: str = OURS,
    vectors: Sequence[Sequence[float | None] | None] | None = None,
    files: int = 2,
) -> None:
    """Commit a batch to a home, in a few files: row n of batch b is image `b-n`."""
    describe(home, featurizer)
    made = _vectors(batch)
    adds = []
    for numbers in np.array_split(np.arange(len(made if vectors is None else vectors)), files):
        rows: dict[str, Any] = {name: [None] * len(numbers) for name in FEATURE_ROWS.file_schema.names}
        rows |= {
            "image_id": [f"{batch}-{number}" for number in numbers],
            "featurizer": [featurizer] * len(numbers),
            "batch": [batch] * len(numbers),
            "features": vectors_column(made[numbers]) if vectors is None else [vectors[at] for at in numbers],
        }
        adds.append(write_file(home, FEATURE_ROWS, rows, {"ingest_date": f"{day}"}))
    for table in TABLES:
        commit(home, table, batch, "a run", adds if table is FEATURE_ROWS else [])


def _sum(spark: SparkSession, home: Home, featurizer: str = OURS, full: bool = False, keep: bool = True) -> SumsOfDays:
    return sum_days(
        spark.sparkContext,
        home,
        featurizer,
        list_days(home),
        full=full,
        keep=keep,
        on_progress=lambda done, total: None,
    )


def _days(rows_by_day: Mapping[date, int]) -> tuple[date, ...]:
    return tuple(sorted(rows_by_day))


def _rows(rows_by_day: Mapping[date, int]) -> int:
    return sum(rows_by_day.values())


def _telling(told: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, total: told.append((done, total))


def _delete(home: Home, deleted: str) -> None:
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    handle.delete(deleted)


def _compact(home: Home) -> None:
    handle = open_table(home, FEATURE_ROWS)
    assert handle is not None
    assert handle.optimize.compact()["numFilesRemoved"] > 0


def _stored_paths_digests(home: Home) -> dict[date, str]:
    store = store_of(home, OURS)
    indexes = [key for key in keys_below(store) if key.startswith("index/")]
    months = [read_month(store, key.removeprefix("index/").removesuffix(".json")) for key in indexes]
    return {day: stored.paths_digest for month in months for day, stored in month.days.items()}


def _stored_bytes(home: Home) -> dict[str, bytes]:
    store = store_of(home, OURS)
    return {key: read(store, key) for key in keys_below(store)}


def _assert_near(moments: Moments, rows: NDArray[np.float32]) -> None:
    expected = moments_of([rows], FEATURES)
    assert moments.rows == expected.rows
    np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(
        moments.scatter, expected.scatter, rtol=1e-11, atol=1e-11 * np.abs(expected.scatter).max()
    )


def _assert_equal(one: Moments, other: Moments) -> None:
    assert one.rows == other.rows
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
    np.testing.assert_allclose(one.triangle, other.triangle, rtol=0, atol=1e-12 * np.abs(other.triangle).max())


def _fill(home: Home) -> None:
    for batch, day in enumerate(DAYS, 1):
        _write(home, batch, day)


def _filled_rows() -> list[NDArray[np.float32]]:
    """The rows of each batch of such a home."""
    return [_vectors(batch) for batch in range(1, len(DAYS) + 1)]


def test_the_second_time_no_finished_day_is_read_and_the_moments_are_those_of_all_rows(
    spark: SparkSession, filled: Home
) -> None:
    rows = _filled_rows()
    told: list[tuple[int, int]] = []
    tell = _telling(told)
    first = sum_days(spark.sparkContext, filled, OURS, list_days(filled), full=False, keep=True, on_progress=tell)
    again = _sum(spark, filled)
    _assert_near(first.sums.moments, np.concatenate(rows))
    _assert_equal(first.sums.moments, again.sums.moments)
    assert (_rows(first.rows_read), _days(first.rows_read), _rows(first.rows_stored), _days(first.rows_stored)) == (
        3 * ROWS,
        DAYS,
        0,
        (),
    )
    assert (_rows(again.rows_read), _days(again.rows_read), _rows(again.rows_stored), _days(again.rows_stored)) == (
        0,
        (),
        3 * ROWS,
        DAYS,
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1] > 0


def test_a_new_day_or_a_late_batch_is_all_that_is_read_and_a_full_run_gives_the_same(
    spark: SparkSession, summed: Home
) -> None:
    rows = _filled_rows()
    _write(summed, 4, MONTH_BEFORE)
    _write(summed, 5, DAYS[0])
    late = _sum(spark, summed)
    assert (_days(late.rows_read), _rows(late.rows_read), _rows(late.rows_stored)) == (
        (MONTH_BEFORE, DAYS[0]),
        3 * ROWS,
        2 * ROWS,
    )
    _assert_near(late.sums.moments, np.concatenate([*rows, _vectors(4), _vectors(5)]))
    before = _stored_bytes(summed)
    dry = _sum(spark, summed, full=True, keep=False)
    assert (_days(dry.rows_read), _rows(dry.rows_stored)) == ((MONTH_BEFORE, *DAYS), 0)
    assert _stored_bytes(summed) == before
    _assert_equal(dry.sums.moments, late.sums.moments)


def test_deleted_rows_make_exactly_their_days_be_read_again(spark: SparkSession, filled: Home) -> None:
    rows = _filled_rows()
    # So that the day of a deleted batch stays.
    _write(filled, 4, DAYS[1])
    _sum(spark, filled)
    _delete(filled, "batch = 2")
    assert _days(_sum(spark, filled).rows_read) == DAYS[1:2]
    _delete(filled, "image_id in ('1-0', '3-0')")
    after = _sum(spark, filled)
    assert (_days(after.rows_read), _days(after.rows_stored)) == ((DAYS[0], DAYS[2]), DAYS[1:2])
    _assert_near(after.sums.moments, np.concatenate([rows[0][1:], _vectors(4), rows[2][1:]]))


def test_compaction_makes_nothing_be_read_and_its_files_are_remembered(spark: SparkSession, summed: Home) -> None:
    before = _sum(spark, summed)
    _compact(summed)
    after = _sum(spark, summed)
    assert (_days(after.rows_read), _rows(after.rows_stored)) == ((), 3 * ROWS)
    _assert_equal(after.sums.moments, before.sums.moments)
    paths_digests = {day.date: digest_of_paths(day.paths) for day in list_days(summed)}
    assert _stored_paths_digests(summed) == paths_digests
    _assert_equal(_sum(spark, summed, full=True, keep=False).sums.moments, before.sums.moments)


def test_rows_of_another_featurizer_on_the_same_days_change_nothing(spark: SparkSession, home: Home) -> None:
    _write(home, 1, DAYS[0])
    _write(home, 2, DAYS[0], featurizer="theirs")
    _assert_near(_sum(spark, home).sums.moments, _vectors(1))
    _write(home, 3, DAYS[0], featurizer="theirs")
    assert _days(_sum(spark, home).rows_read) == ()
    _assert_near(_sum(spark, home, "theirs").sums.moments, np.concatenate([_vectors(2), _vectors(3)]))
    describe(home, "nobody's")
    assert _sum(spark, home, "nobody's", keep=False).sums.moments.rows == 0


def test_a_home_without_rows_has_moments_of_no_rows(spark: SparkSession, tmp_path: Path, home: Home) -> None:
    for empty in (home, load_settings(home=str(tmp_path / "nothing")).places()):
        told: list[tuple[int, int]] = []
        tell = _telling(told)
        describe(empty, OURS)
        summed = sum_days(spark.sparkContext, empty, OURS, list_days(empty), full=False, keep=True, on_progress=tell)
        assert (summed.sums.moments.rows, told) == (0, [(0, 0)])


def test_today_and_a_day_that_a_plan_waits_for_are_read_but_not_stored(spark: SparkSession, filled: Home) -> None:
    today = datetime.now(UTC).date()
    _write(filled, 4, today)
    write_plan(filled, Plan(5, "nonce", datetime.now(UTC), DAYS[0], "file:///landing", "", OURS, ()))
    first, again = _sum(spark, filled), _sum(spark, filled)
    assert (_days(again.rows_read), _days(again.rows_stored)) == ((DAYS[0], today), DAYS[1:])
    _assert_equal(first.sums.moments, again.sums.moments)
    assert sorted(_stored_paths_digests(filled)) == list(DAYS[1:])
    _write(filled, 5, DAYS[0])
    _sum(spark, filled)
    assert sorted(_stored_paths_digests(filled)) == list(DAYS)


def test_what_is_damaged_or_gone_is_computed_again(spark: SparkSession, summed: Home) -> None:
    first = _sum(spark, summed)
    store = store_of(summed, OURS)
    for damaged, gone, reread in [
        (("months/",), False, ()),
        (("days/2024-03-01", "months/"), False, DAYS[:1]),
        (("days/2024-03-02", "months/"), True, DAYS[1:2]),
        (("index/2024-03",), False, DAYS),
    ]:
        for key in [key for key in keys_below(store) if key.startswith(damaged)]:
            if gone:
                (store.directory / key).unlink()
            else:
                overwrite(store, key, read(store, key)[:-9])
        again = _sum(spark, summed)
        assert _days(again.rows_read) == reread
        _assert_equal(again.sums.moments, first.sums.moments)


@pytest.mark.parametrize("sum_is_damaged", [False, True])
def test_a_new_last_day_is_added_to_the_sum_of_its_month(
    spark: SparkSession, summed: Home, sum_is_damaged: bool
) -> None:
    store = store_of(summed, OURS)
    for key in list(keys_below(store)):
        if key.startswith("months/") and sum_is_damaged:
            overwrite(store, key, read(store, key)[:-9])
        if key.startswith("days/2024-03-01") and not sum_is_damaged:
            # Were it needed, it would be missed.
            (store.directory / key).unlink()
    new_day = DAYS[-1] + timedelta(days=1)
    _write(summed, 4, new_day)
    new = _sum(spark, summed)
    assert _days(new.rows_read) == (new_day,)
    _assert_equal(new.sums.moments, _sum(spark, summed, full=True, keep=False).sums.moments)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([float("nan")] * FEATURES, NotFinite),
        ([1.0, float("inf")] * (FEATURES // 2), NotFinite),
        ([1.0, None] * (FEATURES // 2), NotFinite),
        ([1.0] * 3, StateDamaged),
        (None, StateDamaged),
    ],
)
def test_features_that_are_no_1280_numbers_are_refused_by_day(
    home: Home, wrong: list[float | None] | None, error: type[Exception]
) -> None:
    _write(home, 1, DAYS[0], vectors=[[1.0] * FEATURES, wrong])
    with pytest.raises(error, match=r"2024-03-01.*; nothing was published\. Delete .*(refit|try again)\.$"):
        sum_rows(home, OURS, FEATURES, split_into_tasks(list_days(home)[0])[0])


def test_of_a_day_that_is_refused_nothing_is_stored_and_the_days_beside_it_are_not_lost(
    spark: SparkSession, filled: Home
) -> None:
    rows = _filled_rows()
    _write(filled, 4, DAYS[1], vectors=[[float("nan")] * FEATURES])
    with pytest.raises(NotFinite, match="2024-03-02"):
        _sum(spark, filled)
    assert DAYS[1] not in _stored_paths_digests(filled)
    _delete(filled, "batch = 4")
    after = _sum(spark, filled)
    assert (_days(after.rows_read), _days(after.rows_stored)) == (DAYS[1:2], (DAYS[0], DAYS[2]))
    _assert_near(after.sums.moments, np.concatenate(rows))


def test_a_task_that_fails_on_every_try_is_told_in_one_sentence(spark: SparkSession, home: Home) -> None:
    _write(home, 1, DAYS[0])
    file = home.features.directory / list_days(home)[0].files[0].path
    file.unlink()
    with pytest.raises(JobFailed, match=rf"^A task failed .*: Cannot read file://.*{file.name}: .*; refit\.$"):
        _sum(spark, home)


def test_of_two_runs_at_once_both_are_right_and_so_is_what_they_store(spark: SparkSession, filled: Home) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda full: _sum(spark, filled, full=full), (True, False))
    _assert_equal(one.sums.moments, other.sums.moments)
    after = _sum(spark, filled)
    assert _days(after.rows_read) == ()
    _assert_equal(after.sums.moments, one.sums.moments)


def test_days_in_many_tasks_have_the_moments_of_all_of_them(
    spark: SparkSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(days, "TASK_BYTES", 1)
    _write(home, 1, DAYS[0], files=5)
    _write(home, 2, DAYS[1], files=2)
    _write(home, 3, datetime.now(UTC).date(), files=2)
    assert [len(split_into_tasks(day)) for day in list_days(home)] == [5, 2, 2]
    first, again = _sum(spark, home), _sum(spark, home)
    assert _days(again.rows_stored) == DAYS[:2]
    _assert_near(first.sums.moments, np.concatenate([_vectors(1), _vectors(2), _vectors(3)]))
    _assert_equal(again.sums.moments, first.sums.moments)


@pytest.mark.parametrize("sizes_mb", [[1] * 10_000, [200, 1, 1], [1] * 70, [5000] * 3, [0, 0]])
def test_a_task_reads_neighbouring_files_of_some_64_mb_or_a_part_of_a_large_day(sizes_mb: list[int]) -> None:
    files = tuple(
        DataFile(f"{number:05}", size_mb * 2**20, 1, {}, (1, 1), datetime.now(UTC))
        for number, size_mb in enumerate(sizes_mb)
    )
    tasks = split_into_tasks(Day(DAYS[0], files, finished=True))
    assert [path for task in tasks for path in task.paths] == [file.path for file in files]
    assert sum(task.size_bytes for task in tasks) == sum(sizes_mb) * 2**20
    most_mb = max(64, sum(sizes_mb) / 32)
    assert all(task.size_bytes <= most_mb * 2**20 or len(task.paths) == 1 for task in tasks)
    # Any two neighbours together are larger than that.
    assert len(tasks) <= 64


def test_objects_that_nothing_names_are_removed_after_a_day_and_a_month_without_rows_at_once(
    spark: SparkSession, filled: Home
) -> None:
    rows = _filled_rows()
    _write(filled, 4, MONTH_BEFORE)
    _sum(spark, filled)
    store, now = store_of(filled, OURS), f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    old, young = (f"days/2024-03-01.{written}.{uuid.uuid4().hex}.npz" for written in ("20240305T000000Z", now))
    for key in (old, young):
        overwrite(store, key, b"left by a killed refit")
    os.utime(store.directory / old, (0, 0))
    _delete(filled, "batch = 4")
    _assert_near(_sum(spark, filled).sums.moments, np.concatenate(rows))
    keys = set(keys_below(store))
    assert young in keys
    assert not keys & {old, "index/2024-02.json"}


def test_a_home_on_s3_stores_moments_too(spark: SparkSession, bucket: str, s3_server: str) -> None:
    home = load_settings(home=f"s3://{bucket}/home", s3_endpoint=s3_server, s3_region=REGION).places()
    create_tables(home)
    _fill(home)
    rows = _filled_rows()
    _sum(spark, home)
    _delete(home, "image_id = '2-0'")
    again = _sum(spark, home)
    assert (_days(again.rows_read), _days(again.rows_stored)) == (DAYS[1:2], (DAYS[0], DAYS[2]))
    _assert_near(again.sums.moments, np.concatenate([rows[0], rows[1][1:], rows[2]]))


def test_old_indexes_are_removed_though_storage_fails_for_a_while(proxy: str, bucket: str) -> None:
    home = load_settings(home=f"s3://{bucket}/home", s3_endpoint=proxy, s3_region=REGION).places()
    store = store_of(home, OURS)
    overwrite(store, "index/2024-02.json", b"{}")
    # More often than obstore tries again by itself.
    set_rules(proxy, Rule("POST", r"\?delete", answer=500, times=6))
    delete_unused_sums(store, ["2024-03"])
    assert list(keys_below(store)) == []
