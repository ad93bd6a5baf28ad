"""What the tables no longer need: files that no version names, and the old part of their logs."""

from dataclasses import dataclass

from store.home import Home
from store.objects.operations import delete_all, sizes_below
from store.state.plans import planned_batches, read_result
from store.tables.handles import open_tables
from store.tables.schemas import Table
from store.tables.unreferenced import unreferenced_files


@dataclass(frozen=True)
class ObjectCount:
    """So many objects or rows, and their bytes."""

    count: int
    size_bytes: int


def vacuum_orphans(home: Home, table: Table, dry_run: bool) -> ObjectCount:
    """Remove the files below a table that it has not named for a day; says how many.

    A batch that has its result keeps its files however old they are: a stream that was stopped commits them at its
    next start. Attempts without a result end within twelve hours. Killed at any point, a replay removes the rest.
    Raises StorageRefused, StorageUnavailable.
    """
    # Before the table is looked at: what is committed in between is named by it, and a later result's files are young.
    uncommitted = planned_batches(home, after=open_tables(home).committed_to_all)
    results = [result for batch in uncommitted if (result := read_result(home, batch))]
    promised = {added.path for result in results for added in result.adds.get(table.name, ())}
    paths = [path for path in unreferenced_files(home, table) if path not in promised]
    place = home.root.child(table.name)
    sizes = sizes_below(place) if paths else {}
    if not dry_run:
        delete_all(place, paths)
    return ObjectCount(len(paths), sum(sizes.get(path, 0) for path in paths))


def log_size(home: Home, table: Table) -> ObjectCount:
    """How large a table's log is. Raises StorageRefused, StorageUnavailable."""
    sizes = sizes_below(home.root.child(f"{table.name}/_delta_log"))
    return ObjectCount(len(sizes), sum(sizes.values()))
