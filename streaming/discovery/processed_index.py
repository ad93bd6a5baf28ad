"""What was planned before: hashes of `(source, etag)` in a local database; memory does not grow with history."""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from store.objects.landing import LandedObject
from store.objects.location import StorageLocation

# SQS keeps a message for 14 days at most.
REMEMBERED_FOR = timedelta(days=14)
# Beyond this many objects that no listing shows, the oldest are forgotten sooner; the tables know them still.
MOST_REMEMBERED = 5_000_000

_FORMAT = 1
_ASKED_AT_ONCE = 1000
_SHOWN_ROUNDED_S = 3600
# A listing and a message name different times of one upload, the longest apart when it came in many parts.
_TIMES_DIFFER_S = 3600
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS seen (
        identity BLOB PRIMARY KEY, batch INTEGER NOT NULL, arrived_s INTEGER NOT NULL, at_s INTEGER NOT NULL,
        shown_s INTEGER NOT NULL DEFAULT 0, featurized INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS open ON seen (batch) WHERE featurized IS NULL;
    CREATE TABLE IF NOT EXISTS day (
        ingest_date TEXT PRIMARY KEY, batches INTEGER NOT NULL, photos INTEGER NOT NULL, rejects INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class ProcessedEntry:
    """A planned version; until its commit `featurized` is None, and `at_s` the plan's time, then the commit's."""

    batch: int
    arrived_s: int
    at_s: int
    featurized: bool | None

    def covers(self, landed: LandedObject) -> bool:
        """Whether an arrival is this very upload, or adds nothing to it: what was rejected may be uploaded again."""
        arrived_s = landed.arrived_at.timestamp()
        return self.featurized is not False or arrived_s <= self.at_s or int(arrived_s) <= self.arrived_s


@dataclass(frozen=True, slots=True)
class Day:
    """What the committed batches of one day held."""

    ingest_date: date
    batches: int
    photos: int
    rejects: int


@dataclass(frozen=True)
class Outcome:
    """What a committed batch became; `rejected` are identities, fewer than `rejects` once some were erased.

    `retried` are the batches and the days of the reject rows that it took away.
    """

    at: datetime
    ingest_date: date
    photos: int
    rejects: int
    rejected: tuple[bytes, ...]
    retried: tuple[tuple[int, date], ...] = ()


@dataclass(frozen=True)
class IndexInfo:
    """What an index covers.

    `through` is its last batch, `days_since` the last batch before those that its days count, and `rows_before_days`
    how many rows the tables had then. Of objects that arrived before `complete_since_s` some are forgotten. `snapshot`
    is the last batch of the newest snapshot, which has `snapshot_objects`.
    """

    through: int = 0
    days_since: int = 0
    landing: str = ""
    tables: str = ""
    rows_before_days: int = 0
    complete_since_s: int = 0
    snapshot: int = 0
    snapshot_objects: int = 0


def identity(landing: StorageLocation, landed: LandedObject) -> bytes:
    """16 bytes that stand for one version of one object; a hash, so that the state names nobody."""
    return identity_of(landing.source_of(landed.key), landed.etag)


def identity_of(source: str, etag: str) -> bytes:
    """The same from what a row of the tables says."""
    return hashlib.blake2b(f"{source}\0{etag}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


class ProcessedIndex:
    """Which object versions were planned; one file, used by all threads of a process."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        # The file is a copy of what the home can tell again: it need not survive anything.
        self._connection.executescript(
            "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;" + _SCHEMA
        )

    def close(self) -> None:
        self._connection.close()

    def entries(self, identities: Sequence[bytes]) -> dict[bytes, ProcessedEntry]:
        found: dict[bytes, ProcessedEntry] = {}
        for start in range(0, len(identities), _ASKED_AT_ONCE):
            some = identities[start : start + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(some))
            sql = f"SELECT identity, batch, arrived_s, at_s, featurized FROM seen WHERE identity IN ({marks})"
            for key, batch, arrived_s, at_s, featurized in self._rows(sql, some):
                found[key] = ProcessedEntry(batch, arrived_s, at_s, None if featurized is None else bool(featurized))
        return found

    def planned(self, batch: int, arrivals: Iterable[tuple[bytes, datetime]], at: datetime) -> None:
        """These identities are in a durable plan, with the times they arrived. Replay changes nothing."""
        rows = [(key, batch, int(arrived_at.timestamp()), int(at.timestamp())) for key, arrived_at in arrivals]
        self._write(
            "INSERT INTO seen (identity, batch, arrived_s, at_s) VALUES (?, ?, ?, ?) ON CONFLICT (identity) DO UPDATE "
            "SET batch = excluded.batch, arrived_s = excluded.arrived_s, at_s = excluded.at_s, featurized = NULL "
            "WHERE featurized = 0 AND excluded.batch > batch",
            rows,
        )

    def committed(self, batch: int, outcome: Outcome) -> None:
        """A batch has its rows in the tables. Replay changes nothing; batches come in the order of their numbers."""
        at_s = int(outcome.at.timestamp())
        with self._transaction():
            info = self.info
            if batch <= info.through:
                return
            self._connection.executemany(
                "UPDATE seen SET featurized = 0, at_s = ? WHERE featurized IS NULL AND identity = ?",
                ((at_s, key) for key in outcome.rejected),
            )
            self._connection.execute(
                "UPDATE seen SET featurized = 1, at_s = ? WHERE featurized IS NULL AND batch = ?", (at_s, batch)
            )
            counted = [(day.isoformat(),) for of_batch, day in outcome.retried if of_batch > info.days_since]
            self._connection.executemany("UPDATE day SET rejects = rejects - 1 WHERE ingest_date = ?", counted)
            rows_before_days = info.rows_before_days - (len(outcome.retried) - len(counted))
            self.set_info(through=batch, rows_before_days=rows_before_days)
            if batch <= info.days_since:
                return
            self._connection.execute(
                "INSERT INTO day VALUES (?, 1, ?, ?) ON CONFLICT (ingest_date) DO UPDATE SET batches = batches + 1, "
                "photos = photos + excluded.photos, rejects = rejects + excluded.rejects",
                (outcome.ingest_date.isoformat(), outcome.photos, outcome.rejects),
            )

    def has_rows(self, rows: Iterable[tuple[bytes, ProcessedEntry]]) -> None:
        """The tables hold rows of these identities. Features count more than a reject, then the newest one."""
        self._write(
            "INSERT INTO seen (identity, batch, arrived_s, at_s, featurized) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (identity) DO UPDATE SET batch = excluded.batch, arrived_s = excluded.arrived_s, "
            "at_s = excluded.at_s, featurized = excluded.featurized "
            "WHERE (excluded.featurized, excluded.batch) > (featurized, batch)",
            ((key, known.batch, known.arrived_s, known.at_s, known.featurized) for key, known in rows),
        )

    def shown(self, identities: Sequence[bytes], at: datetime) -> None:
        """A listing that began then shows these; written once an hour at most."""
        at_s = int(at.timestamp())
        self._write(
            "UPDATE seen SET shown_s = ? WHERE identity = ? AND shown_s < ?",
            ((at_s, key, at_s - _SHOWN_ROUNDED_S) for key in identities),
        )

    def forget(self, before: datetime, listed_at: datetime) -> None:
        """Forget what is committed and was neither committed nor shown by a listing since `before`.

        Beyond five million objects that the complete listing that began at `listed_at` does not show, the oldest go
        sooner.
        """
        before_s = int(before.timestamp())
        # What a listing shows again within an hour is not written down again.
        there_s = int(listed_at.timestamp()) - _SHOWN_ROUNDED_S
        with self._transaction():
            gone = "featurized IS NOT NULL AND shown_s < ? AND at_s < ?"
            self._forget(gone, before_s, before_s)
            unshown = f"featurized IS NOT NULL AND shown_s < max(at_s, {there_s})"
            remembered = self._number(f"SELECT count(*) FROM seen WHERE {unshown}")
            if remembered > MOST_REMEMBERED:
                # A tenth more than needed, so that this is not done each time.
                youngest = remembered - MOST_REMEMBERED * 9 // 10
                at_s = self._number(f"SELECT at_s FROM seen WHERE {unshown} ORDER BY at_s LIMIT 1 OFFSET {youngest}")
                self._forget(f"{unshown} AND at_s < ?", at_s)

    def _forget(self, which: str, *values: int) -> None:
        youngest = self._rows(f"SELECT max(arrived_s) FROM seen WHERE {which}", values)[0][0]
        if youngest is not None:
            self._connection.execute(f"DELETE FROM seen WHERE {which}", values)
            self.set_info(complete_since_s=max(self.info.complete_since_s, youngest + _TIMES_DIFFER_S))

    def forget_objects(self) -> None:
        self._write("DELETE FROM seen", [()])

    def forget_days(self) -> None:
        self._write("DELETE FROM day", [()])

    @property
    def is_whole(self) -> bool:
        """Whether the file is sound inside, too."""
        return bool(self._rows("PRAGMA quick_check(1)", []) == [("ok",)])

    @property
    def committed_objects(self) -> int:
        """How many of those that it knows have their rows."""
        return self._number("SELECT count(*) FROM seen WHERE featurized IS NOT NULL")

    @property
    def days(self) -> list[Day]:
        """What each day held, as far as `days_since` says."""
        rows = self._rows("SELECT ingest_date, batches, photos, rejects FROM day ORDER BY 1", [])
        return [Day(date.fromisoformat(day), *counts) for day, *counts in rows]

    @property
    def info(self) -> IndexInfo:
        """Raises ValueError when the file is of another format."""
        found = dict(self._rows("SELECT name, value FROM fact", []))
        if found.pop("format", str(_FORMAT)) != str(_FORMAT):
            raise ValueError("It was written by another version of this program.")
        return IndexInfo(**{name: type(getattr(IndexInfo(), name))(value) for name, value in found.items()})

    def set_info(self, **values: int | str) -> None:
        facts = [(name, str(value)) for name, value in values.items()]
        with self._lock:
            self._connection.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", facts)

    def copy_committed(self, file: Path) -> IndexInfo:
        """Write what is committed at this moment to a new file, and return its info."""
        with self._lock:
            self._connection.execute("VACUUM INTO ?", (str(file),))
        copy = ProcessedIndex(file)
        try:
            copy._write("DELETE FROM seen WHERE featurized IS NULL", [()])
            through, objects = copy.info.through, copy.committed_objects
            copy.set_info(format=_FORMAT, snapshot=through, snapshot_objects=objects)
            return copy.info
        finally:
            copy.close()

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _number(self, sql: str, *values: object) -> int:
        return int(self._rows(sql, values)[0][0])

    def _write(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with self._transaction():
            self._connection.executemany(sql, rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN")
            yield
