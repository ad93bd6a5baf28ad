"""Keep the tables quick to read and no larger than they must be: compaction, vacuum, retention."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from batch.maintain.compaction import Group, compact, groups_to_compact
from batch.maintain.labels import expire_labels
from batch.maintain.retention import Retention, expire_copies, expire_objects, expire_reports, expire_rows
from batch.maintain.vacuum import ObjectCount, log_size, vacuum_orphans
from store.home import Home
from store.objects.half_written import delete_half_written
from store.state.erasures import delete_old_erasures, settle_erased_rows
from store.state.lease import hold_lease
from store.tables.handles import open_tables, tables_of_batches
from store.tables.schemas import COPY_ROWS, LABEL_ROWS
from store.tables.unreferenced import UNREFERENCED_KEPT, shorten_log


@dataclass(frozen=True)
class Compaction:
    """Small files that became one; in a dry run nobody knows how large it would be."""

    group: Group
    size_bytes: int | None


@dataclass(frozen=True)
class OrphanRemoval:
    """Files of a table that no version of it has named for a day."""

    table: str
    removed: ObjectCount


@dataclass(frozen=True)
class LogRemoval:
    """What was removed of a table's log, and what is left of it."""

    table: str
    removed: ObjectCount
    left: ObjectCount


@dataclass(frozen=True)
class Expiry:
    """What was older than it is to be kept: photos of the archive, pages of reports, answers, or rows of a table."""

    place: str
    expired: ObjectCount


MaintenanceStep = Compaction | OrphanRemoval | LogRemoval | Expiry


def maintain(
    home: Home,
    retention: Retention,
    say: Callable[[str], None],
    on_step: Callable[[MaintenanceStep], None],
    dry_run: bool = False,
) -> None:
    """Delete what is older than it is to be kept, compact finished hours and days, and remove what no table needs.

    `say` gets waits in words, `on_step` each step when it is done. Photos may arrive meanwhile, and queries go on: a
    file stays for a day after the last version that named it. Killed at any point nothing is lost, and a replay does
    what is left; two at once exclude each other. A dry run changes nothing.
    Raises HomeInUse, StateDamaged, StorageRefused, StorageUnavailable.
    """
    with hold_lease(home, "fruits maintain", say) as check:
        now, of_batches = datetime.now(UTC), tables_of_batches(home)
        if not dry_run:
            settle_erased_rows(home, open_tables(home))
            delete_old_erasures(home, now)
        if retention.archive is not None:
            on_step(Expiry("archive", expire_objects(home.archive, retention.archive, now, dry_run)))
        if retention.reports is not None:
            on_step(Expiry("reports", expire_reports(home, retention.reports, dry_run)))
        if retention.answers is not None:
            on_step(Expiry("answers", expire_objects(home.answers, retention.answers, now, dry_run)))
        if retention.rows is not None:
            for table in of_batches:
                check()
                on_step(Expiry(table.name, expire_rows(home, table, retention.rows, now, dry_run)))
            check()
            on_step(Expiry(LABEL_ROWS.name, expire_labels(home, retention.rows, now, dry_run, say)))
        if retention.copies is not None and COPY_ROWS in of_batches:
            check()
            on_step(Expiry(COPY_ROWS.name, expire_copies(home, retention.copies, now, dry_run)))
        groups = groups_to_compact(home, now)
        for group, size_bytes in ((group, None) for group in groups) if dry_run else compact(home, groups, check):
            on_step(Compaction(group, size_bytes))
        if not dry_run:
            for place in home.record_locations:
                delete_half_written(place, now - UNREFERENCED_KEPT)
        for table in (*of_batches, LABEL_ROWS):
            check()
            on_step(OrphanRemoval(table.name, vacuum_orphans(home, table, dry_run)))
            if not dry_run:
                before = log_size(home, table)
                shorten_log(home, table)
                left = log_size(home, table)
                removed = ObjectCount(before.count - left.count, before.size_bytes - left.size_bytes)
                on_step(LogRemoval(table.name, removed, left))
