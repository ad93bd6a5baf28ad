"""What a start needs of the past: the newest snapshot, the batches since, and the tables where those are not enough."""

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from deltalake import DeltaTable

from store.answers.progress import answered_through
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.operations import delete_all, download, keys_below, overwrite
from store.state.erasures import erased_rows
from store.state.expired import first_kept_day
from store.state.plans import Plan, Result, delete_old_batches, planned_batches, read_plan, read_result
from store.tables.files import data_files, rows_of_sources
from store.tables.handles import TableHandles, open_table, open_tables
from store.tables.photo_counts import count_photos, has_photos
from store.tables.schemas import FEATURE_ROWS, REJECT_ROWS, TABLES
from streaming.discovery.processed_index import Outcome, ProcessedEntry, ProcessedIndex, identity, identity_of
from streaming.threads import in_thread

# A snapshot is due when what came since the last one is a tenth of what it holds: writing them then costs each photo
# the same, however long the history is. But a start reads no more than this many batches one by one.
SNAPSHOT_GROWTH = 0.1
SNAPSHOT_LEAST_OBJECTS = 20_000
SNAPSHOT_MOST_BATCHES = 500

_NAME = re.compile(r"(\d{12,})\.sqlite")
_READERS = 16


def load_processed_index(home: Home, file: Path) -> ProcessedIndex:
    """Everything that was ever planned, as far as it can come again, in a new file.

    It comes from the newest snapshot and the plans and results since; if one is missing, and for another landing, from
    the tables. Replay gives the same. Raises StorageUnavailable and StateDamaged.
    """
    tables = open_tables(home)
    committed = tables.committed_to_all
    index = _from_snapshot(home, file, _ids(tables), committed)
    through = index.info.through
    if index.info.landing not in ("", home.landing.source):
        _take_rows(home, index, tables, pc.field("batch") <= through)
    planned = planned_batches(home, through)
    finished = [batch for batch in planned if batch <= committed]
    known = set(planned) >= set(range(through + 1, tables.committed_to_any + 1))
    if not (known and _take_batches(home, index, finished)):
        _take_rows(home, index, tables, pc.field("batch") >= 0)
        # Nobody knows any more what the batches up to here should have held.
        index.forget_days()
        index.set_info(through=committed, days_since=tables.committed_to_any, rows_before_days=_count_rows(tables))
    elif not _rows_are_all_there(home, index, tables):
        _take_rows(home, index, tables, pc.field("batch") >= 0)
    for batch in planned:
        if batch > committed and (plan := read_plan(home, batch)) is not None:
            index.planned(batch, _identities(home, plan), plan.planned_at)
    index.set_info(landing=home.landing.source, tables=_ids(tables))
    return index


def outcome_of(home: Home, plan: Plan, result: Result) -> Outcome:
    """What a batch became, for `ProcessedIndex.committed`."""
    rejected = set(result.rejected_keys)
    landing = home.landing_named(plan.landing)
    identities = tuple(identity(landing, landed) for landed in plan.objects if landed.key in rejected)
    photos, rejects = result.counters.photos, sum(result.counters.rejects.values())
    retried = tuple((row.batch, row.ingest_date) for row in plan.retried)
    return Outcome(result.finished_at, plan.ingest_date, photos, rejects, identities, retried)


class Snapshots:
    """Writes a snapshot whenever one is due, in the background."""

    def __init__(self, home: Home, index: ProcessedIndex) -> None:
        self._home = home
        self._index = index
        self._grown = index.committed_objects - index.info.snapshot_objects
        self._writing: Future[None] | None = None

    def committed(self, objects: int) -> None:
        """So many more objects have their rows. Raises what the last snapshot failed of."""
        self._grown += objects
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        info = self._index.info
        has_grown = self._grown > max(SNAPSHOT_LEAST_OBJECTS, SNAPSHOT_GROWTH * info.snapshot_objects)
        if self._writing is None and (has_grown or info.through - info.snapshot >= SNAPSHOT_MOST_BATCHES):
            self._grown = 0
            self._writing = in_thread(partial(write_snapshot, self._home, self._index))


def write_snapshot(home: Home, index: ProcessedIndex) -> None:
    """Make what is committed durable in one object, then delete what it stands for: older snapshots, plans, results.

    Killed in between, the next one deletes the rest. Plans and results stay for a day, for those who were paused with
    one in hand, and those whose answers are not written. Raises StorageUnavailable.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "snapshot.sqlite")
        info = index.copy_committed(file)
        overwrite(home.snapshots, _key(info.through), file)
    delete_all(home.snapshots, (_key(batch) for batch in _snapshots(home) if batch < info.through))
    index.set_info(snapshot=info.snapshot, snapshot_objects=info.snapshot_objects)
    answered = answered_through(home)
    delete_old_batches(home, info.through if answered is None else min(info.through, answered))


def in_tables(home: Home, landed: Sequence[LandedObject]) -> set[bytes]:
    """The identities of those objects that the tables hold; only files from around their arrival are read."""
    # A listing and a message name different times of one upload, the longest apart when it came in many parts.
    times, day = [one.arrived_at for one in landed], timedelta(days=1)
    between = (pc.field("arrived_at") >= min(times) - day) & (pc.field("arrived_at") <= max(times) + day)
    sources = {home.landing.source_of(one.key) for one in landed}
    found: set[bytes] = set()
    for table in (FEATURE_ROWS, REJECT_ROWS):
        handle = open_table(home, table)
        for rows in rows_of_sources(handle, ["source", "etag"], between, sources) if handle else ():
            found.update(map(identity_of, rows["source"].to_pylist(), rows["etag"].to_pylist()))
    return found


def _from_snapshot(home: Home, file: Path, tables: str, committed: int) -> ProcessedIndex:
    for batch in sorted(_snapshots(home), reverse=True):
        if not download(home.snapshots, _key(batch), file):
            continue
        try:
            index = ProcessedIndex(file)
            if index.is_whole and index.info.through == batch <= committed and index.info.tables == tables:
                return index
            index.close()
        except (sqlite3.DatabaseError, ValueError, TypeError):
            # It only repeats what the tables hold: a damaged one counts as never written.
            pass
    file.unlink(missing_ok=True)
    return ProcessedIndex(file)


def _take_batches(home: Home, index: ProcessedIndex, batches: Sequence[int]) -> bool:
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(batches), _READERS):
            some = batches[start : start + _READERS]
            plans = pool.map(lambda batch: read_plan(home, batch), some)
            results = pool.map(lambda batch: read_result(home, batch), some)
            for plan, result in zip(plans, results, strict=True):
                if plan is None or result is None:
                    return False
                index.planned(plan.batch, _identities(home, plan), plan.planned_at)
                index.committed(plan.batch, outcome_of(home, plan, result))
    return True


def _take_rows(home: Home, index: ProcessedIndex, tables: TableHandles, batches: pc.Expression) -> None:
    index.forget_objects()
    below = pc.starts_with(pc.field("source"), home.landing.source + "/")
    columns = ["source", "etag", "batch", "arrived_at", "ingested_at"]
    for table in (FEATURE_ROWS, REJECT_ROWS):
        for rows in _rows(tables[table], columns, batches & below):
            index.has_rows(
                (
                    identity_of(source, etag),
                    ProcessedEntry(batch, int(arrived_at.timestamp()), int(at.timestamp()), table is FEATURE_ROWS),
                )
                for source, etag, batch, arrived_at, at in zip(*rows, strict=True)
            )


def _rows_are_all_there(home: Home, index: ProcessedIndex, tables: TableHandles) -> bool:
    # A table that was restored to an older version, or lost rows, no longer holds all that was processed.
    since = first_kept_day(home)
    # Nobody knows of which days the rows before were.
    before_days = index.info.rows_before_days if since == date.min else 0
    expected = before_days + sum(day.photos + day.rejects for day in index.days if day.ingest_date >= since)
    erased = erased_rows(home, tables)
    for table in (FEATURE_ROWS, REJECT_ROWS):
        days = erased.get(table.name, {})
        expected -= sum(sum(batches.values()) for day, batches in days.items() if day >= since)
    return has_photos(tables[FEATURE_ROWS], lambda day: day >= since, expected - _count_rejects(tables, since))


def _count_rows(tables: TableHandles) -> int:
    """How many rows there would be with one network."""
    return count_photos(tables[FEATURE_ROWS], lambda _: True) + _count_rejects(tables, date.min)


def _count_rejects(tables: TableHandles, since: date) -> int:
    return sum(file.rows for file in data_files(tables[REJECT_ROWS]) if file.partition["ingest_date"] >= since)


def _rows(handle: DeltaTable | None, columns: list[str], which: pc.Expression) -> Iterator[tuple[list[Any], ...]]:
    for rows in handle.to_pyarrow_dataset().scanner(columns, filter=which).to_batches() if handle else ():
        yield tuple(rows[name].to_pylist() for name in columns)


def _identities(home: Home, plan: Plan) -> Iterator[tuple[bytes, datetime]]:
    landing = home.landing_named(plan.landing)
    return ((identity(landing, landed), landed.arrived_at) for landed in plan.objects)


def _ids(tables: TableHandles) -> str:
    # Tables that were made anew know nothing of what a snapshot tells. Copies are no part of that.
    handles = [tables[table] for table in TABLES]
    return " ".join(str(handle.metadata().id) if handle else "-" for handle in handles)


def _snapshots(home: Home) -> list[int]:
    names = (_NAME.fullmatch(key) for key in keys_below(home.snapshots))
    return [int(name[1]) for name in names if name]


def _key(batch: int) -> str:
    return f"{batch:012d}.sqlite"
