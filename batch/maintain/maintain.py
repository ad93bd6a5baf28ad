"""Keep the tables quick to read and no larger than they must be: compaction, sweeping, retention."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from batch.maintain.compaction import Group, compact, groups_to_compact
from batch.maintain.retention import Expired, Retention, expire_archive, expire_reports, expire_rows
from batch.maintain.vacuum import Stored, log_of, sweep_log, vacuum_orphans
from store.home import Home
from store.state.erasures import delete_old_erasures, settle_erased_rows
from store.state.lease import hold_lease
from store.tables.handles import open_tables
from store.tables.schemas import TABLES


@dataclass(frozen=True)
class Compacted:
    """Small files that became one; in a dry run nobody knows how large it would be."""

    group: Group
    size_bytes: int | None


@dataclass(frozen=True)
class Swept:
    """Files of a table that no version of it names since a day."""

    table: str
    removed: Stored


@dataclass(frozen=True)
class Shortened:
    """A table's log: what of it was removed, and what it is now."""

    table: str
    removed: Stored
    left: Stored


@dataclass(frozen=True)
class Kept:
    """What was older than it is kept: photos of the archive, pages of reports, or rows of a table."""

    place: str
    expired: Expired


Piece = Compacted | Swept | Shortened | Kept


@dataclass(frozen=True)
class Watcher:
    """Who follows the work: told of waits in words, and of each piece when it is done."""

    say: Callable[[str], None]
    done: Callable[[Piece], None]


def maintain(home: Home, retention: Retention, watcher: Watcher, dry_run: bool = False) -> None:
    """Delete what is older than it is kept, compact finished hours and days, and remove what no table needs.

    Photos may arrive meanwhile, and queries go on: a file stays for a day after the last version that named it. Killed
    at any point nothing is lost, and a replay does what is left; two at once exclude each other. A dry run only tells.
    Raises HomeInUse, StateDamaged, StorageRefused, StorageUnavailable.
    """
    with hold_lease(home, "fruits maintain", watcher.say) as check:
        now = datetime.now(UTC)
        if not dry_run:
            settle_erased_rows(home, open_tables(home))
            delete_old_erasures(home, now)
        _expire(home, retention, watcher, now, dry_run, check)
        groups = groups_to_compact(home, now)
        if dry_run:
            for group in groups:
                watcher.done(Compacted(group, None))
        else:
            for group, size_bytes in compact(home, groups, check):
                watcher.done(Compacted(group, size_bytes))
        for table in TABLES:
            check()
            watcher.done(Swept(table.name, vacuum_orphans(home, table, dry_run)))
            if not dry_run:
                removed = sweep_log(home, table)
                watcher.done(Shortened(table.name, removed, log_of(home, table)))


def _expire(
    home: Home, retention: Retention, watcher: Watcher, now: datetime, dry_run: bool, check: Callable[[], None]
) -> None:
    if retention.archive is not None:
        watcher.done(Kept("archive", expire_archive(home, retention.archive, now, dry_run)))
    if retention.reports is not None:
        watcher.done(Kept("reports", expire_reports(home, retention.reports, dry_run)))
    if retention.rows is not None:
        for table in TABLES:
            check()
            watcher.done(Kept(table.name, expire_rows(home, table, retention.rows, now, dry_run)))
