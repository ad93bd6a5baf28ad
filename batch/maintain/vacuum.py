"""What the tables no longer need: files that no version names, and the old part of their logs."""

from dataclasses import dataclass

from store.home import Home
from store.objects.operations import delete_all, sizes_below
from store.state.plans import read_results
from store.tables.handles import open_tables
from store.tables.schemas import Table
from store.tables.unreferenced import shorten_log, unreferenced_files

_LOG = "_delta_log"


@dataclass(frozen=True)
class Stored:
    """So many objects, and their bytes."""

    files: int
    size_bytes: int


def vacuum_orphans(home: Home, table: Table, dry_run: bool) -> Stored:
    """Remove what lies below a table and was not named by it for a day; says what that was.

    A batch that has its result keeps its files however old they are: a stream that was stopped commits them at its
    next start. Attempts without a result end within twelve hours. Killed at any point, a replay removes the rest.
    Raises StorageRefused, StorageUnavailable.
    """
    # Before the table is looked at: what is committed in between is named by it, and a later result's files are young.
    promised = _promised(home, table)
    paths = [path for path in unreferenced_files(home, table) if path not in promised]
    place = home.root.child(table.name)
    sizes = sizes_below(place) if paths else {}
    if not dry_run:
        delete_all(place, paths)
    return Stored(len(paths), sum(sizes.get(path, 0) for path in paths))


def log_of(home: Home, table: Table) -> Stored:
    """How large a table's log is."""
    sizes = sizes_below(home.root.child(f"{table.name}/{_LOG}"))
    return Stored(len(sizes), sum(sizes.values()))


def sweep_log(home: Home, table: Table) -> Stored:
    """Remove what a table's log holds of versions older than a day; says how much less it is.

    Raises StorageRefused, StorageUnavailable.
    """
    before = log_of(home, table)
    shorten_log(home, table)
    after = log_of(home, table)
    return Stored(before.files - after.files, before.size_bytes - after.size_bytes)


def _promised(home: Home, table: Table) -> set[str]:
    results = read_results(home, after=open_tables(home).committed_to_all)
    return {added.path for result in results for added in result.adds.get(table.name, ())}
