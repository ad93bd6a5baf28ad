"""Rows taken out of the tables and out of the bytes of every file below them, also those that no table names."""

import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from batch.erase.selection import Selection
from batch.refit.stored_moments import forget_moments
from store.errors import StateDamaged, StorageUnavailable
from store.home import Home
from store.objects.faults import retry_storage
from store.objects.location import to_nfc
from store.objects.operations import delete_all, keys_below, old_keys, read_if_exists
from store.state.erasures import Pending, record_pending_erasure, settle_erased_rows
from store.state.plans import AddedFile
from store.tables.commits import MAINTENANCE, commit_replacements, next_number
from store.tables.files import DataFile, data_files, read_file, rewrite_file
from store.tables.handles import LANDINGS_METADATA, open_table, open_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, Table

# Its transactions tell whether a removal came about.
ERASURE = "fruits-erase"

_READ_AT_ONCE = 8
_LOG = "_delta_log/"
# Of what a commit says of itself: what programs write, in which no person can be named.
_SAYS_NOTHING = {
    *("timestamp", "operation", "operationParameters", "operationMetrics", "engineInfo", "clientVersion"),
    *("readVersion", "isolationLevel", "isBlindAppend", "txnId", "fruits.batch", "fruits.nonce", LANDINGS_METADATA),
}


@dataclass
class Found:
    """What was taken away of one table, and the versions (source, etag) of objects with rows that came later."""

    rows: int = 0
    rewritten_files: int = 0
    unreferenced_files: int = 0
    log_files: int = 0
    kept: set[tuple[str, str]] = field(default_factory=set)

    @property
    def anything(self) -> bool:
        return bool(self.rows or self.unreferenced_files or self.log_files)


def erase_rows(home: Home, selection: Selection, table: Table, check: Callable[[], None]) -> Found:
    """Take a selection's rows out of a table in one transaction, and delete every file that holds one, at once.

    For whoever holds the lease, once every batch that was planned before is committed. The transaction names files,
    days and batches, and nobody. What others append meanwhile stays. Killed at any point, a replay does the rest; the
    count of erased rows is right all the same. Queries that began before may find a file gone.
    Raises HomeInUse when others rewrote one of the files meanwhile, StateDamaged, StorageUnavailable.
    """
    handle = open_table(home, table)
    if handle is None:
        return Found()
    found = Found()
    scans = list(_scanned(home, table, selection, data_files(handle)))
    hits = [(file, scan) for file, scan in scans if scan.batches]
    for _, scan in scans:
        found.kept |= scan.kept
    if hits:
        days = _by_day(hits)
        if table is FEATURE_ROWS:
            # Sums over a day with few rows tell of each.
            forget_moments(home, days)
        rewritten = [(file, _without(home, table, selection, file, scan)) for file, scan in hits]
        check()
        _commit(home, table, handle, rewritten, days)
        found.rows = sum(scan.rows for _, scan in hits)
        found.rewritten_files = len(hits)
        if table is FEATURE_ROWS:
            forget_moments(home, days)
    found.unreferenced_files = _delete_unreferenced(home, table, selection)
    found.log_files = _clean_log(home, table, selection.texts())
    return found


def count_rows(home: Home, selection: Selection, table: Table) -> int:
    """How many rows of a table a selection covers now. Raises StateDamaged, StorageUnavailable."""
    files = data_files(open_table(home, table))
    return sum(scan.rows for _, scan in _scanned(home, table, selection, files))


def strange_sources(home: Home, selection: Selection) -> list[str]:
    """Sources of rows below no landing that is known, so that nobody would search there; and learn what goes with rows.

    Raises StateDamaged, StorageUnavailable.
    """
    strange: list[str] = []
    for table in (FEATURE_ROWS, REJECT_ROWS):
        for file in data_files(open_table(home, table)):
            for rows in read_file(home, table, file.path, selection.columns_of(table)):
                strange += selection.strangers(rows["source"].to_pylist())
                selection.learn(rows.filter(selection.rows(rows)))
    return strange


@dataclass(frozen=True)
class _Scan:
    """What one file holds of a selection: rows by batch, and versions of objects that came later."""

    batches: Counter[int]
    kept: frozenset[tuple[str, str]]

    @property
    def rows(self) -> int:
        return self.batches.total()


def _scanned(
    home: Home, table: Table, selection: Selection, files: Sequence[DataFile]
) -> Iterator[tuple[DataFile, _Scan]]:
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as pool:
        yield from zip(files, pool.map(lambda file: _scan(home, table, selection, file.path), files), strict=True)


def _scan(home: Home, table: Table, selection: Selection, path: str) -> _Scan:
    batches: Counter[int] = Counter()
    kept: set[tuple[str, str]] = set()
    for rows in read_file(home, table, path, selection.columns_of(table)):
        wanted = selection.rows(rows)
        if wanted.true_count:
            hits = rows.filter(wanted)
            selection.learn(hits)
            batches.update(hits["batch"].to_pylist())
        later = selection.later(rows)
        if later.true_count and "etag" in rows.schema.names:
            some = rows.filter(later)
            kept.update(zip(some["source"].to_pylist(), some["etag"].to_pylist(), strict=True))
    return _Scan(batches, frozenset(kept))


def _by_day(hits: Sequence[tuple[DataFile, _Scan]]) -> dict[date, Counter[int]]:
    days: dict[date, Counter[int]] = {}
    for file, scan in hits:
        days.setdefault(file.partition["ingest_date"], Counter()).update(scan.batches)
    return days


def _without(home: Home, table: Table, selection: Selection, file: DataFile, scan: _Scan) -> AddedFile | None:
    if scan.rows == file.rows:
        return None
    added = rewrite_file(home, table, file, lambda rows: pc.invert(selection.rows(rows)))
    if added.rows != file.rows - scan.rows:
        raise StateDamaged(
            f"{file.path} in {table.name} holds {added.rows + scan.rows} rows instead of {file.rows}; "
            "nothing was erased. Restore it."
        )
    return added


def _commit(
    home: Home,
    table: Table,
    handle: DeltaTable,
    rewritten: Sequence[tuple[DataFile, AddedFile | None]],
    days: dict[date, Counter[int]],
) -> None:
    if table is not PROJECTION_ROWS:
        record_pending_erasure(home, Pending(table.name, ERASURE, next_number(handle, ERASURE), days))
    try:
        commit_replacements(home, table, handle, rewritten, (MAINTENANCE, ERASURE))
    finally:
        settle_erased_rows(home, open_tables(home))
    delete_all(home.root.child(table.name), [file.path for file, _ in rewritten])


def _delete_unreferenced(home: Home, table: Table, selection: Selection) -> int:
    """Files that hold a row of the selection and that no table names: of lost attempts, and of older versions."""
    place = home.root.child(table.name)
    # Listed before the table is opened: what is committed in between is named by it.
    age = datetime.now(UTC) - selection.before
    paths, old = [path for path in keys_below(place) if not path.startswith(_LOG)], set(old_keys(place, age))
    named = {file.path for file in data_files(open_table(home, table))}

    def is_to_go(path: str) -> bool:
        try:
            return bool(_scan(home, table, selection, path).batches)
        except StateDamaged:
            # Half a file; what was begun after the request holds nothing of it.
            return path in old
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise

    unnamed = [path for path in paths if path not in named]
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as pool:
        gone = [path for path, goes in zip(unnamed, pool.map(is_to_go, unnamed), strict=True) if goes]
    return delete_all(place, gone)


def _clean_log(home: Home, table: Table, texts: Collection[str]) -> int:
    """Log files that hold one of the texts: the predicate of a deletion by hand, or what another program wrote."""
    place = home.root.child(f"{table.name}/_delta_log")
    # As it is, as SQL has it between quotes, and as a string in JSON.
    wanted = {form for text in texts for form in (text, text.replace("'", "''"), json.dumps(text)[1:-1])}

    def holds(key: str) -> bool:
        said = "\0".join(_said_in(table, key, read_if_exists(place, key) or b""))
        return any(form in words for words in (said, to_nfc(said)) for form in wanted)

    def found() -> list[str]:
        keys = [key for key in keys_below(place) if key.endswith((".json", ".parquet"))]
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="log") as pool:
            return [key for key, hit in zip(keys, pool.map(holds, keys), strict=True) if hit]

    telling = found()
    handle = open_table(home, table) if telling else None
    if handle is None:
        return 0
    # One more entry, which says nothing: what is older is then needed by nobody, who writes next included.
    commit_replacements(home, table, handle, (), (MAINTENANCE,))
    handle = open_table(home, table) or handle
    retry_storage(f"write a checkpoint of {place.uri}", handle.create_checkpoint)
    newest = f"{handle.version():020d}."
    return delete_all(place, [key for key in telling if key < newest])


def _said_in(table: Table, key: str, body: bytes) -> Iterator[str]:
    """What a log file says in words of rows; numbers, names of files and the schema would look like anybody's name."""
    if key.endswith(".parquet"):
        for row in pq.read_table(io.BytesIO(body)).to_pylist():
            yield from _said(table, row)
        return
    for line in body.splitlines():
        try:
            action = json.loads(line)
        except ValueError:
            action = None
        if isinstance(action, dict):
            yield from _said(table, action)
        else:
            yield line.decode("utf-8", "replace")


def _said(table: Table, action: Mapping[str, Any]) -> Iterator[str]:
    words = {column.name for column in table.file_schema if pa.types.is_string(column.type)}
    info, add = action.get("commitInfo") or {}, action.get("add") or {}
    statistics = json.loads(add.get("stats") or "{}")
    extremes = (statistics.get("minValues") or {}, statistics.get("maxValues") or {})
    yield from _as_text(value for name, value in info.items() if name not in _SAYS_NOTHING)
    yield from _as_text([(info.get("operationParameters") or {}).get("predicate"), add.get("tags")])
    yield from _as_text(value for columns in extremes for name, value in columns.items() if name in words)


def _as_text(values: Iterable[Any]) -> Iterator[str]:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
