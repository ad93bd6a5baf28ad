"""Commits to the tables: each batch exactly once, and each rewrite of files by one writer at a time."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from store.errors import AnotherStreamRunning, HomeInUse
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage, storage_error
from store.state.plans import AddedFile
from store.tables.files import DataFile, Replacement
from store.tables.handles import APPLICATION, POST_COMMIT, OpenTables, commit_properties, create_table, load_table
from store.tables.reject_rows import RejectRow, rewrite_without
from store.tables.schemas import Table, table_location

# Who rewrites and deletes files of the tables. Each of its commits has a number, so that of two at once one is refused.
MAINTENANCE = "fruits-maintain"
_HISTORY_SEARCHED = 200


def commit(
    home: Home,
    table: Table,
    batch: int,
    nonce: str,
    adds: Sequence[AddedFile],
    tables: OpenTables | None = None,
    deleted: Collection[RejectRow] = (),
) -> None:
    """Append a batch's files to a table in one Delta transaction, exactly once; it also deletes some rows of `rejects`.

    Replay, also by another process, finds the batch's transaction in the table and changes nothing. A file that holds
    a row of `deleted` is rewritten without it; if another writer replaced the file meanwhile, this tries again.
    `tables` spares a writer of many batches reading the whole log for each. Raises AnotherStreamRunning when a rival
    committed this batch meanwhile, StorageRefused, and StorageUnavailable at the deadline.
    Protocol: Delta Lake `txn` actions; check and commit use one handle, so that a commit in between is refused.
    """
    tables = tables or OpenTables(home)
    is_repeated = False

    def commit_once() -> None:
        nonlocal is_repeated
        with tables.latest(table) as handle:
            if tables.batch_of(table, handle) >= batch:
                # After a fault it is unknown whether the write was carried out; the table shows it now.
                if is_repeated:
                    _check_is_ours(home, handle, table, batch, nonce)
                return
            is_repeated = True
            handle = handle or create_table(home, table)
            replacements = rewrite_without(home, handle, deleted)
            transactions = [Transaction(APPLICATION, batch)]
            if replacements:
                # Without it, maintenance that replaces the same files at the same time would not be refused, and their
                # rows would be doubled (seen with deltalake 1.6.6).
                transactions.append(_next_transaction(handle, MAINTENANCE))
            metadata = {"fruits.batch": str(batch), "fruits.nonce": nonce}
            _write(home, table, handle, [*_additions(adds), *_replacing(replacements)], transactions, metadata)
            tables.note_commit(table, handle, batch)

    uri = table_location(home, table).uri
    retry_storage(f"commit batch {batch} to {uri}", commit_once, again=UNKNOWN_OUTCOME)


def append_once(
    home: Home,
    table: Table,
    application: str,
    adds: Sequence[AddedFile],
    metadata: Mapping[str, str],
    is_there: Callable[[DeltaTable], bool],
    also: Sequence[str] = (),
) -> bool:
    """Append files in one transaction unless the table has their rows already; returns whether it was appended now.

    If the answer to the write was lost, it counts as not appended. Raises StorageRefused, and StorageUnavailable at the
    deadline. Protocol: as `commit`; the application's number makes one of two appends at once try again. So does a
    commit by one of the applications in `also`, whose decisions an append could contradict.
    """

    def append_unless_there() -> bool:
        handle = load_table(home, table) or create_table(home, table)
        if is_there(handle):
            return False
        transactions = [_next_transaction(handle, one) for one in (application, *also)]
        _write(home, table, handle, _additions(adds), transactions, metadata)
        return True

    return retry_storage(f"append to {table_location(home, table).uri}", append_unless_there, again=UNKNOWN_OUTCOME)


def append_as_seen(home: Home, table: Table, handle: DeltaTable, adds: Sequence[AddedFile], application: str) -> None:
    """Append files in one transaction, unless `application` has committed since the handle was opened.

    The handle cannot be used again. If the answer to the write was lost, it counts as a conflict: a replay of the
    decision finds the rows. Raises HomeInUse then, StorageRefused, StorageUnavailable. Protocol: as `delete_rows`.
    """
    with _conflicts_as_home_in_use(home, table, "append to", "appended"):
        _write(home, table, handle, _additions(adds), [_next_transaction(handle, application)])


def delete_rows(home: Home, table: Table, handle: DeltaTable, predicate: str, application: str) -> None:
    """Delete the rows that a predicate selects, unless `application` has committed since the handle was opened.

    Of whole partitions only the names of their files are removed. Replay finds nothing left to do. The handle cannot be
    used again. Raises HomeInUse when `application` has committed, StorageRefused, StorageUnavailable.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by.
    """
    with _conflicts_as_home_in_use(home, table, "delete from", "deleted"):
        handle.delete(
            predicate,
            commit_properties=commit_properties(home, [_next_transaction(handle, application)]),
            post_commithook_properties=POST_COMMIT,
        )


def replace_files(
    home: Home,
    table: Table,
    handle: DeltaTable,
    removed: Sequence[DataFile],
    adds: Sequence[AddedFile],
    application: str,
) -> None:
    """Replace several files of one partition by fewer that hold the same rows, in one transaction.

    The replaced files stay on disk. Raises HomeInUse when `application` has committed since the handle was updated, or
    another writer has removed one of the files; StorageRefused, StorageUnavailable. Replay with the same files is
    refused. Protocol: Delta Lake `txn` actions, through the handle that the decision was made by. Without one, a rival
    that replaced the same files would not be refused, and their rows would be doubled (seen with deltalake 1.6.6).
    """
    committed_at_ms = max(map(_committed_at_ms, removed))
    actions: list[AddAction | RemoveAction] = [
        *(AddAction(f.path, f.size_bytes, f.partition, committed_at_ms, False, f.statistics) for f in adds),
        *(RemoveAction(file.path, False, _now_ms(), file.size_bytes, {**file.partition_folders}) for file in removed),
    ]
    with _conflicts_as_home_in_use(home, table, "replace files of", "replaced"):
        _write(home, table, handle, actions, [_next_transaction(handle, application)])


def commit_replacements(
    home: Home, table: Table, handle: DeltaTable, replacements: Sequence[Replacement], applications: Sequence[str]
) -> None:
    """Replace files by others with fewer rows, or by none, in one transaction.

    The log then names files and numbers, and nothing of the rows. The replaced files stay on disk. Raises as
    `replace_files` for each of the applications. Replay with the same files is refused. Protocol: as `replace_files`.
    """
    transactions = [_next_transaction(handle, application) for application in applications]
    with _conflicts_as_home_in_use(home, table, "remove rows from", "removed"):
        _write(home, table, handle, _replacing(replacements), transactions)


def move_rows(
    home: Home,
    table: Table,
    handle: DeltaTable,
    removed: Sequence[DataFile],
    adds: Sequence[AddedFile],
    application: str,
) -> None:
    """Take files out of a table and add others, of any partition, in one transaction.

    The removed files stay on disk. Raises as `replace_files`. Replay with the same files is refused.
    Protocol: as `replace_files`.
    """
    actions = [*_additions(adds), *_replacing([(file, None) for file in removed])]
    with _conflicts_as_home_in_use(home, table, "move rows of", "moved"):
        _write(home, table, handle, actions, [_next_transaction(handle, application)])


def next_number(handle: DeltaTable, application: str) -> int:
    """The number of the next commit by an application to a table, as the handle knows it."""
    return (handle.transaction_version(application) or 0) + 1


def _next_transaction(handle: DeltaTable, application: str) -> Transaction:
    return Transaction(application, next_number(handle, application))


def _write(
    home: Home,
    table: Table,
    handle: DeltaTable,
    actions: Sequence[AddAction | RemoveAction],
    transactions: list[Transaction],
    metadata: Mapping[str, str] | None = None,
) -> None:
    handle.create_write_transaction(
        list(actions),
        mode="append",
        schema=table.schema,
        partition_by=list(table.partitioned_by),
        commit_properties=commit_properties(home, transactions, metadata),
        post_commithook_properties=POST_COMMIT,
    )


@contextmanager
def _conflicts_as_home_in_use(home: Home, table: Table, verb: str, participle: str) -> Iterator[None]:
    uri = table_location(home, table).uri
    try:
        yield
    except CommitFailedError as error:
        raise HomeInUse(f"{uri} was changed meanwhile; nothing was {participle}. Try again.") from error
    except (DeltaError, OSError) as error:
        raise storage_error(f"{verb} {uri}", error) from error


def _additions(adds: Sequence[AddedFile]) -> list[AddAction | RemoveAction]:
    return [AddAction(f.path, f.size_bytes, f.partition, _now_ms(), True, f.statistics) for f in adds]


def _replacing(replacements: Sequence[Replacement]) -> list[AddAction | RemoveAction]:
    actions: list[AddAction | RemoveAction] = []
    for file, added in replacements:
        actions.append(RemoveAction(file.path, True, _now_ms(), file.size_bytes, {**file.partition_folders}))
        if added is not None:
            # Compaction goes by the time at which the rows came.
            came_ms = _committed_at_ms(file)
            actions.append(AddAction(added.path, added.size_bytes, added.partition, came_ms, True, added.statistics))
    return actions


def _now_ms() -> int:
    return int(time.time() * 1000)


def _committed_at_ms(file: DataFile) -> int:
    return round(file.committed_at.timestamp() * 1000)


def _check_is_ours(home: Home, handle: DeltaTable | None, table: Table, batch: int, nonce: str) -> None:
    history = handle.history(_HISTORY_SEARCHED) if handle is not None else []
    owner = next((entry.get("fruits.nonce") for entry in history if entry.get("fruits.batch") == str(batch)), None)
    if owner != nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it committed batch {batch} to {table_location(home, table).uri} "
            "first. Stop one of the two; nothing was lost or doubled."
        )
