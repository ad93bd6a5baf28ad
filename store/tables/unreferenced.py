"""What no version of a table names any more: old files and the old part of the log."""

from datetime import timedelta

from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.tables.handles import POST_COMMIT, RETENTION, commit_properties, load_table
from store.tables.schemas import Table, table_location

# How long a file that no version of a table names any more can still be read, and with it the log that names it.
UNREFERENCED_KEPT = timedelta(hours=24)


def shorten_log(home: Home, table: Table) -> None:
    """Write a checkpoint, and delete what the log holds of versions older than a day.

    A process that opened the table before can go on: its next look or commit finds the newest version by the
    checkpoint. Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """

    def shorten() -> None:
        handle = load_table(home, table)
        if handle is None:
            return
        if not RETENTION.items() <= handle.metadata().configuration.items():
            # Tables that were made before these were set. A commit at the same moment is refused once, and tried again.
            handle.alter.set_table_properties(
                RETENTION, commit_properties=commit_properties(home, []), post_commithook_properties=POST_COMMIT
            )
            handle = load_table(home, table) or handle
        handle.create_checkpoint()
        handle.cleanup_metadata()

    retry_storage(f"shorten the log of {table_location(home, table).uri}", shorten, again=UNKNOWN_OUTCOME)


def unreferenced_files(home: Home, table: Table) -> list[str]:
    """The files below a table that no version has named for a day, or ever; files of the log are none of them.

    Files of a batch that has its result and waits for its commit can be among them. Raises StorageUnavailable.
    """
    hours = int(UNREFERENCED_KEPT.total_seconds() // 3600)

    def unreferenced() -> list[str]:
        handle = load_table(home, table)
        return handle.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True) if handle else []

    return retry_storage(f"list {table_location(home, table).uri}", unreferenced)
