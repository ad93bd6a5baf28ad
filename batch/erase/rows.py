"""Rows erased from the tables and from every file below them, also from files that no table names.

Deleting rows from a Delta table leaves their bytes in older files, in files of lost attempts, and in predicates of the
log, where anybody with access to the storage can read them. So every data file below a table is searched for the rows,
and every file of its log for the names. tests/batch/erase/test_erase.py searches all bytes of a home afterwards.
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import compress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from batch.erase.selection import Selection
from batch.refit.stored_sums import forget_sums
from store.errors import StateDamaged, StorageUnavailable
from store.home import Home
from store.models.pca_models import drop_names
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
# Fields of a commit that programs fill, in which no person can be named.
_NAMES_NOBODY = {
    *("timestamp", "operation", "operationParameters", "operationMetrics", "engineInfo", "clientVersion"),
    *("readVersion", "isolationLevel", "isBlindAppend", "txnId", "fruits.batch", "fruits.nonce", LANDINGS_METADATA),
}


@dataclass
class ErasedRows:
    """What was erased from one table, and the versions (source, etag) of objects with rows that came later.

    `classifiers` is how many versions of the models lost theirs, because it was fitted on some of the rows.
    """

    rows: int = 0
    classifiers: int = 0
    rewritten_files: int = 0
    unreferenced_files: int = 0
    log_files: int = 0
    newer_versions: set[tuple[str, str]] = field(default_factory=set)


def erase_rows(home: Home, selection: Selection, table: Table, check: Callable[[], None]) -> ErasedRows:
    """Remove a selection's rows from a table in one transaction, and delete every file that holds one, at once.

    For whoever holds the lease, once every batch that was planned before is committed. The transaction names files,
    days and batches, and nobody. What others append meanwhile stays. Killed at any point, a replay does the rest; the
    count of erased rows is right all the same. Queries that began before may find a file gone.
    Raises HomeInUse when others rewrote one of the files meanwhile, StateDamaged, StorageUnavailable.
    """
    handle = open_table(home, table)
    if handle is None:
        return ErasedRows()
    erased = ErasedRows()
    scans = _scan_files(home, table, selection, data_files(handle))
    hits = [(file, scan) for file, scan in scans if scan.batches]
    for _, scan in scans:
        erased.newer_versions |= scan.newer_versions
    if hits:
        days = _gone_by_day(hits)
        # Before the rows go: a replay finds them again, and with them what they were fitted into.
        erased.classifiers += len(drop_names(home, _first_batches(scan for _, scan in hits)))
        if table is FEATURE_ROWS:
            # The sum of a day with few rows tells much of each row.
            forget_sums(home, days)
        rewritten = [(file, _rewrite_without(home, table, selection, file, scan)) for file, scan in hits]
        check()
        _commit(home, table, handle, rewritten, days)
        erased.rows = sum(scan.rows for _, scan in hits)
        erased.rewritten_files = len(hits)
        if table is FEATURE_ROWS:
            forget_sums(home, days)
    _delete_unreferenced(home, table, selection, erased)
    erased.log_files = delete_log_files(home, table, selection.names())
    return erased


def count_rows(home: Home, selection: Selection, table: Table) -> int:
    """How many rows of a table a selection covers now. Raises StateDamaged, StorageUnavailable."""
    handle = open_table(home, table)
    return sum(scan.rows for _, scan in _scan_files(home, table, selection, data_files(handle)))


def unnamed_with_rows(home: Home, table: Table, before: datetime, holds_rows: Callable[[str], bool]) -> list[str]:
    """The files below a table that it does not name, of lost attempts and of older versions, and that hold some rows.

    `before` is when it was asked to look: half a file that was begun later holds none of the rows.
    Raises StorageRefused, StorageUnavailable.
    """
    place = home.root.child(table.name)
    # Listed before the table is opened: what is committed in between is named by it.
    age = datetime.now(UTC) - before
    paths, old = [path for path in keys_below(place) if not path.startswith("_delta_log/")], set(old_keys(place, age))
    named = {file.path for file in data_files(open_table(home, table))}

    def is_to_go(path: str) -> bool:
        try:
            return holds_rows(path)
        except StateDamaged:
            return path in old
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise

    unnamed = [path for path in paths if path not in named]
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as pool:
        return list(compress(unnamed, pool.map(is_to_go, unnamed)))


def delete_log_files(home: Home, table: Table, names: Collection[str]) -> int:
    """Delete log files that hold a name: in the predicate of a deletion by hand, or in what another program wrote."""
    place = home.root.child(f"{table.name}/_delta_log")
    # As it is, as SQL has it between quotes, and as a string in JSON.
    forms = {form for name in names for form in (name, name.replace("'", "''"), json.dumps(name)[1:-1])}

    def has_name(key: str) -> bool:
        text = "\0".join(_texts_of_log_file(table, key, read_if_exists(place, key) or b""))
        return any(form in some for some in (text, to_nfc(text)) for form in forms)

    keys = [key for key in keys_below(place) if key.endswith((".json", ".parquet"))]
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="log") as pool:
        keys = list(compress(keys, pool.map(has_name, keys)))
    handle = open_table(home, table) if keys else None
    if handle is None:
        return 0
    # After one more entry, which names nobody, no reader or writer needs the older ones.
    commit_replacements(home, table, handle, (), (MAINTENANCE,))
    handle = open_table(home, table) or handle
    retry_storage(f"write a checkpoint of {place.uri}", handle.create_checkpoint)
    newest = f"{handle.version():020d}."
    return delete_all(place, [key for key in keys if key < newest])


def note_objects(home: Home, selection: Selection) -> list[str]:
    """Note in the selection which objects its rows are of; returns sources of rows below no landing that is known.

    Nobody would search for their photos. Raises StateDamaged, StorageUnavailable.
    """
    unknown: list[str] = []
    for table in (FEATURE_ROWS, REJECT_ROWS):
        for file in data_files(open_table(home, table)):
            for rows in read_file(home, table, file.path, selection.columns_of(table)):
                unknown += selection.unknown_sources(rows["source"].to_pylist())
                selection.note_objects(rows.filter(selection.row_mask(rows)))
    return unknown


@dataclass(frozen=True)
class _Scan:
    """What one file holds of a selection: rows by batch, and versions of objects that came later.

    `photos` (batch, source, etag) are those that its feature rows are of; None in other tables.
    `first_batches` are, by featurizer and label, the lowest batches of these rows.
    """

    batches: Counter[int] = field(default_factory=Counter)
    photos: set[tuple[int, str, str]] | None = None
    newer_versions: set[tuple[str, str]] = field(default_factory=set)
    first_batches: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.batches.total()


def _scan_files(
    home: Home, table: Table, selection: Selection, files: Sequence[DataFile]
) -> list[tuple[DataFile, _Scan]]:
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as pool:
        scans = pool.map(lambda file: _scan(home, table, selection, file.path), files)
        return list(zip(files, scans, strict=True))


def _scan(home: Home, table: Table, selection: Selection, path: str) -> _Scan:
    scan = _Scan(photos=set() if table is FEATURE_ROWS else None)
    labels = [name for name in ("featurizer", "label") if name in table.file_schema.names]
    for rows in read_file(home, table, path, [*selection.columns_of(table), *labels]):
        covered = rows.filter(selection.row_mask(rows))
        selection.note_objects(covered)
        scan.batches.update(covered["batch"].to_pylist())
        if scan.photos is not None:
            scan.photos.update(zip(*(covered[name].to_pylist() for name in ("batch", "source", "etag")), strict=True))
        if labels:
            labelled = zip(*(covered[name].to_pylist() for name in (*labels, "batch")), strict=True)
            for featurizer, label, batch in labelled:
                if label is not None:
                    of_label = featurizer, to_nfc(label)
                    scan.first_batches[of_label] = min(batch, scan.first_batches.get(of_label, batch))
        if "etag" in rows.schema.names:
            newer = rows.filter(selection.newer_row_mask(rows))
            scan.newer_versions.update(zip(newer["source"].to_pylist(), newer["etag"].to_pylist(), strict=True))
    return scan


def _gone_by_day(hits: Sequence[tuple[DataFile, _Scan]]) -> dict[date, Counter[int]]:
    """How much of what the results of batches counted goes, by day; a photo with rows of several networks is one."""
    days: dict[date, Counter[int]] = defaultdict(Counter)
    photos: dict[date, set[tuple[int, str, str]]] = defaultdict(set)
    for file, scan in hits:
        day = file.partition["ingest_date"]
        days[day].update(scan.batches if scan.photos is None else (batch for batch, *_ in scan.photos - photos[day]))
        photos[day] |= scan.photos or set()
    return days


def _first_batches(scans: Iterable[_Scan]) -> dict[tuple[str, str], int]:
    first: dict[tuple[str, str], int] = {}
    for scan in scans:
        for of_label, batch in scan.first_batches.items():
            first[of_label] = min(batch, first.get(of_label, batch))
    return first


def _rewrite_without(home: Home, table: Table, selection: Selection, file: DataFile, scan: _Scan) -> AddedFile | None:
    if scan.rows == file.rows:
        return None
    added = rewrite_file(home, table, file, lambda rows: pc.invert(selection.row_mask(rows)))
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
    days: Mapping[date, Counter[int]],
) -> None:
    if table is not PROJECTION_ROWS:
        record_pending_erasure(home, Pending(table.name, ERASURE, next_number(handle, ERASURE), days))
    try:
        commit_replacements(home, table, handle, rewritten, (MAINTENANCE, ERASURE))
    finally:
        settle_erased_rows(home, open_tables(home))
    delete_all(home.root.child(table.name), [file.path for file, _ in rewritten])


def _delete_unreferenced(home: Home, table: Table, selection: Selection, erased: ErasedRows) -> None:
    """Files that hold a row of the selection and that no table names. Rows of older versions may have been in a fit."""
    scans: list[_Scan] = []

    def holds_rows(path: str) -> bool:
        scan = _scan(home, table, selection, path)
        scans.append(scan)
        return bool(scan.batches)

    paths = unnamed_with_rows(home, table, selection.before, holds_rows)
    erased.classifiers += len(drop_names(home, _first_batches(scans)))
    erased.unreferenced_files = delete_all(home.root.child(table.name), paths)


def _texts_of_log_file(table: Table, key: str, body: bytes) -> Iterator[str]:
    """The words about rows in a log file; numbers, names of files and the schema would look like anybody's name."""
    if key.endswith(".parquet"):
        for row in pq.read_table(io.BytesIO(body)).to_pylist():
            yield from _texts_of_action(table, row)
        return
    for line in body.splitlines():
        try:
            action = json.loads(line)
        except ValueError:
            action = None
        if isinstance(action, dict):
            yield from _texts_of_action(table, action)
        else:
            yield line.decode("utf-8", "replace")


def _texts_of_action(table: Table, action: Mapping[str, Any]) -> Iterator[str]:
    text_columns = {column.name for column in table.file_schema if pa.types.is_string(column.type)}
    info, add = action.get("commitInfo") or {}, action.get("add") or {}
    statistics = json.loads(add.get("stats") or "{}")
    extremes = (statistics.get("minValues") or {}, statistics.get("maxValues") or {})
    yield from _as_text(value for name, value in info.items() if name not in _NAMES_NOBODY)
    yield from _as_text([(info.get("operationParameters") or {}).get("predicate"), add.get("tags")])
    yield from _as_text(value for columns in extremes for name, value in columns.items() if name in text_columns)


def _as_text(values: Iterable[Any]) -> Iterator[str]:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
