"""What no version of a table names any more: old files and the old part of the log."""

from datetime import timedelta

from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.tables.handles import POST_COMMIT, RETENTION, commit_properties, opened_table, table_location
from store.tables.schemas import Table

# How long a file that no version of a table names any more can still be read, and with it the log that names it.
UNREFERENCED_KEPT = timedelta(hours=24)


def shorten_log(home: Home, table: Table) -> None:
    """Write a checkpoint, and delete what the log holds of versions older than a day.

    Who opened the table before reads on, and its next look or commit finds the newest version by the checkpoint.
    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    place = table_location(home, table)

    def shorten() -> None:
        handle = opened_table(place)
        if handle is None:
            return
        standing = handle.metadata().configuration
        if any(standing.get(name) != value for name, value in RETENTION.items()):
            # Tables that were made before these were set. A commit at the same moment is refused once, and tried again.
            said = commit_properties(home, [])
            handle.alter.set_table_properties(RETENTION, commit_properties=said, post_commithook_properties=POST_COMMIT)
            handle = opened_table(place) or handle
        handle.create_checkpoint()
        handle.cleanup_metadata()

    retry_storage(f"shorten the log of {place.uri}", shorten, again=UNKNOWN_OUTCOME)


def unreferenced_files(home: Home, table: Table) -> list[str]:
    """The files below a table that no version names since a day, nor ever did and are older; the log is none of them.

    Among them may be files of a batch that has its result and waits to be committed.
    Raises StorageRefused, StorageUnavailable.
    """
    hours = int(UNREFERENCED_KEPT.total_seconds() // 3600)

    def look() -> list[str]:
        handle = opened_table(table_location(home, table))
        if handle is None:
            return []
        return handle.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)

    return retry_storage(f"list {table_location(home, table).uri}", look)
