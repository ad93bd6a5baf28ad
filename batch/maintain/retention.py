"""What is kept only for a while: archived photos, and rows of days long past."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial

from batch.maintain.vacuum import ObjectCount
from store.home import Home
from store.objects.landing import archive_or_delete, list_pages
from store.objects.location import StorageLocation
from store.objects.operations import delete_all, old_keys, sizes_below
from store.state.expired import raise_first_copied_day, raise_first_kept_day
from store.tables.commits import MAINTENANCE, delete_rows
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import COPY_ROWS, Table

_DELETED_AT_ONCE = 16


@dataclass(frozen=True)
class Retention:
    """How long each is kept; None is for ever."""

    archive: timedelta | None = None
    rows: timedelta | None = None
    reports: timedelta | None = None
    answers: timedelta | None = None
    copies: timedelta | None = None


def expire_objects(place: StorageLocation, keep: timedelta, now: datetime, dry_run: bool) -> ObjectCount:
    """Delete archived photos, or answers, that came to their place longer ago than `keep`; says how many.

    Each only if its etag is still the one that was listed. Killed at any point, a replay deletes the rest.
    Raises StorageRefused, StorageUnavailable.
    """
    count = size_bytes = 0
    delete = partial(archive_or_delete, place, place, cleaning="delete")
    with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="expire") as pool:
        for page in list_pages(place):
            old = [landed for landed in page if landed.visible_at < now - keep]
            deleted = [True] * len(old) if dry_run else list(pool.map(delete, old))
            count += sum(deleted)
            size_bytes += sum(landed.size_bytes for landed, is_gone in zip(old, deleted, strict=True) if is_gone)
    return ObjectCount(count, size_bytes)


def expire_reports(home: Home, keep: timedelta, dry_run: bool) -> ObjectCount:
    """Delete pages of reports that were made longer ago than `keep`; says how many. Certificates of erasures stay.

    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    old = [key for key in old_keys(home.reports, keep) if key.endswith(".html")]
    sizes = sizes_below(home.reports) if old else {}
    if not dry_run:
        delete_all(home.reports, old)
    return ObjectCount(len(old), sum(sizes.get(key, 0) for key in old))


def expire_rows(home: Home, table: Table, keep: timedelta, now: datetime, dry_run: bool) -> ObjectCount:
    """Delete a table's rows of days (`ingest_date`) that ended longer ago than `keep`; says how many.

    Before that it records, for all tables, that days up to there have no rows, so that nobody misses them. Only whole
    partitions go; their files stay for a day. Killed at any point, a replay deletes the rest.
    Raises HomeInUse, StorageRefused, StorageUnavailable.
    """
    return _delete_days(home, table, first_day_kept(home, keep, now, dry_run), dry_run)


def expire_copies(home: Home, keep: timedelta, now: datetime, dry_run: bool) -> ObjectCount:
    """Delete the copies of days that ended longer ago than `keep`, as `expire_rows` does; their photos' rows stay."""
    before = (now - keep).date()
    if not dry_run:
        before = max(before, raise_first_copied_day(home, before))
    return _delete_days(home, COPY_ROWS, before, dry_run)


def _delete_days(home: Home, table: Table, before: date, dry_run: bool) -> ObjectCount:
    handle = open_table(home, table)
    old = [file for file in data_files(handle) if file.partition["ingest_date"] < before]
    if handle is not None and old and not dry_run:
        delete_rows(home, table, handle, f"ingest_date < '{before}'", MAINTENANCE)
    return ObjectCount(sum(file.rows for file in old), sum(file.size_bytes for file in old))


def first_day_kept(home: Home, keep: timedelta, now: datetime, dry_run: bool) -> date:
    """The first day (`ingest_date`) whose rows stay, written down unless it is a dry run: never an earlier one."""
    before = (now - keep).date()
    return before if dry_run else max(before, raise_first_kept_day(home, before))
