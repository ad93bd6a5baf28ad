"""Commits to the tables: each batch exactly once, and each rewrite of files by one writer at a time."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from store.errors import AnotherStreamRunning, HomeInUse
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage, storage_error
from store.state.plans import AddedFile
from store.tables.files import DataFile, RewrittenFile
from store.tables.handles import (
    APPLICATION,
    POST_COMMIT,
    OpenTables,
    commit_properties,
    created_table,
    opened_table,
    table_location,
)
from store.tables.reject_rows import RejectRow, rewritten_without
from store.tables.schemas import Table

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
    gone: Collection[RejectRow] = (),
) -> None:
    """Append a batch's files to a table in one Delta transaction, exactly once; rows of `rejects` in `gone` go with it.

    Replay, also by another process, finds the batch's transaction in the table and changes nothing. A file that holds
    rows of `gone` is rewritten without them; who replaced it meanwhile makes us look again.
    `tables` spares a writer of many batches reading the log for each. Raises AnotherStreamRunning when a rival
    committed this batch while we tried, StorageRefused, and StorageUnavailable at the deadline.
    Protocol: Delta Lake `txn` actions; check and commit go through one handle, so that a commit in between is refused.
    """
    place = table_location(home, table)
    tables = tables or OpenTables(home)
    tried = False

    def commit_or_recognise() -> None:
        # After a fault it is unknown whether the write landed; the next look at the table tells.
        nonlocal tried
        with tables.latest(table) as handle:
            if tables.batch_of(table, handle) >= batch:
                if tried:
                    _recognise(home, handle, table, batch, nonce)
                return
            tried = True
            metadata = {"fruits.batch": str(batch), "fruits.nonce": nonce}
            handle = handle or created_table(place, table)
            rewritten = rewritten_without(home, handle, gone)
            _append(home, handle, table, Transaction(APPLICATION, batch), metadata, adds, rewritten)
            tables.committed(table, handle, batch)

    retry_storage(f"commit batch {batch} to {place.uri}", commit_or_recognise, again=UNKNOWN_OUTCOME)


def delete_rows(home: Home, table: Table, handle: DeltaTable, predicate: str, application: str) -> None:
    """Delete the rows that a predicate chooses, unless `application` has committed since the handle was opened.

    Of whole partitions only their files' names go. Replay finds nothing left to do. Raises HomeInUse when it has,
    StorageRefused and StorageUnavailable; the handle has served its turn then.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by.
    """
    number = next_transaction(handle, application)
    try:
        handle.delete(
            predicate,
            commit_properties=commit_properties(home, [Transaction(application, number)]),
            post_commithook_properties=POST_COMMIT,
        )
    except CommitFailedError as error:
        raise HomeInUse(
            f"{table_location(home, table).uri} was changed meanwhile; nothing was deleted. Try again."
        ) from error
    except (DeltaError, OSError) as error:
        raise storage_error(f"delete from {table_location(home, table).uri}", error) from error


def replace_files(
    home: Home, table: Table, handle: DeltaTable, removed: Sequence[DataFile], added: AddedFile, application: str
) -> None:
    """Put one file that holds the same rows in the place of several of one partition, in one transaction.

    The files replaced stay on disk. Raises HomeInUse when `application` has committed since the handle was updated, or
    anybody has removed one of the files; StorageRefused and StorageUnavailable. Replay with the same files is refused.
    Protocol: Delta Lake `txn` actions, through the handle that the decision was made by. Without one, a rival that
    replaced the same files would go unnoticed, and their rows would be there twice (seen with deltalake 1.6.6).
    """
    number = next_transaction(handle, application)
    now_ms = int(time.time() * 1000)
    committed_at_ms = round(max(file.committed_at for file in removed).timestamp() * 1000)
    add = AddAction(added.path, added.size_bytes, added.partition, committed_at_ms, False, added.statistics)
    removes = [RemoveAction(file.path, False, now_ms, file.size_bytes, dict(added.partition)) for file in removed]
    try:
        handle.create_write_transaction(
            [add, *removes],
            mode="append",
            schema=table.schema,
            partition_by=list(table.partitioned_by),
            commit_properties=commit_properties(home, [Transaction(application, number)]),
            post_commithook_properties=POST_COMMIT,
        )
    except CommitFailedError as error:
        raise HomeInUse(
            f"{table_location(home, table).uri} was changed meanwhile; nothing was replaced. Try again."
        ) from error
    except (DeltaError, OSError) as error:
        raise storage_error(f"replace files of {table_location(home, table).uri}", error) from error


def next_transaction(handle: DeltaTable, application: str) -> int:
    """The number of the next commit by an application to a table, as the handle knows it."""
    return (handle.transaction_version(application) or 0) + 1


def commit_rewritten(
    home: Home,
    table: Table,
    handle: DeltaTable,
    rewritten: Sequence[RewrittenFile],
    applications: Sequence[str],
) -> None:
    """Put files with fewer rows, or none, in the place of others of their partitions, in one transaction.

    The log then names files and numbers, and nothing of the rows. The files replaced stay on disk. Raises HomeInUse
    when one of the applications has committed since the handle was updated, or anybody has removed one of the files;
    StorageRefused and StorageUnavailable. Replay with the same files is refused.
    Protocol: as `replace_files`.
    """
    transactions = [Transaction(application, next_transaction(handle, application)) for application in applications]
    try:
        handle.create_write_transaction(
            list(_replacing(rewritten)),
            mode="append",
            schema=table.schema,
            partition_by=list(table.partitioned_by),
            commit_properties=commit_properties(home, transactions),
            post_commithook_properties=POST_COMMIT,
        )
    except CommitFailedError as error:
        raise HomeInUse(
            f"{table_location(home, table).uri} was changed meanwhile; nothing was removed. Try again."
        ) from error
    except (DeltaError, OSError) as error:
        raise storage_error(f"remove rows from {table_location(home, table).uri}", error) from error


def append_once(
    home: Home,
    table: Table,
    application: str,
    adds: Sequence[AddedFile],
    metadata: Mapping[str, str],
    there_already: Callable[[DeltaTable], bool],
) -> bool:
    """Append files in one transaction unless the table holds what they bring, and say whether it was appended now.

    A lost answer counts as not appended. Raises StorageRefused, and StorageUnavailable at the deadline.
    Protocol: as `commit`; appends by one application number themselves, so of two at once one is refused and looks
    again.
    """
    place = table_location(home, table)

    def append_unless_there() -> bool:
        handle = opened_table(place) or created_table(place, table)
        if there_already(handle):
            return False
        number = next_transaction(handle, application)
        _append(home, handle, table, Transaction(application, number), metadata, adds)
        return True

    return retry_storage(f"append to {place.uri}", append_unless_there, again=UNKNOWN_OUTCOME)


def _append(
    home: Home,
    handle: DeltaTable,
    table: Table,
    transaction: Transaction,
    metadata: Mapping[str, str],
    adds: Sequence[AddedFile],
    rewritten: Sequence[RewrittenFile] = (),
) -> None:
    now_ms = int(time.time() * 1000)
    added = [AddAction(f.path, f.size_bytes, f.partition, now_ms, True, f.statistics) for f in adds]
    transactions = [transaction]
    if rewritten:
        # Maintenance that replaces the same files at the same time would go unnoticed otherwise, and their rows would
        # be there twice (seen with deltalake 1.6.6).
        transactions.append(Transaction(MAINTENANCE, next_transaction(handle, MAINTENANCE)))
    handle.create_write_transaction(
        [*added, *_replacing(rewritten)],
        mode="append",
        schema=table.schema,
        partition_by=list(table.partitioned_by),
        commit_properties=commit_properties(home, transactions, metadata),
        post_commithook_properties=POST_COMMIT,
    )


def _replacing(rewritten: Iterable[RewrittenFile]) -> Iterator[AddAction | RemoveAction]:
    now_ms = int(time.time() * 1000)
    for file, added in rewritten:
        partition: dict[str, str | None] = {column: str(value) for column, value in file.partition.items()}
        yield RemoveAction(file.path, True, now_ms, file.size_bytes, partition)
        if added is not None:
            # Compaction is to see when its rows came.
            came_ms = round(file.committed_at.timestamp() * 1000)
            yield AddAction(added.path, added.size_bytes, added.partition, came_ms, True, added.statistics)


def _recognise(home: Home, handle: DeltaTable | None, table: Table, batch: int, nonce: str) -> None:
    history = handle.history(_HISTORY_SEARCHED) if handle is not None else []
    owner = next((entry.get("fruits.nonce") for entry in history if entry.get("fruits.batch") == str(batch)), None)
    if owner != nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it committed batch {batch} to {table_location(home, table).uri} "
            "first. Stop one of the two; nothing was lost or doubled."
        )
