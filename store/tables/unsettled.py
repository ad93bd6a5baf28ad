"""What is planned and not yet committed to all tables."""

from collections.abc import Iterator

from store.home import Home
from store.state.plans import Plan, planned_batches, read_plans
from store.tables.handles import TableHandles, open_tables


def unsettled_batches(home: Home, tables: TableHandles | None = None) -> list[int]:
    """The numbers of the batches that are planned and that not all tables have, ascending.

    A batch that is committed between the two looks, at the tables (unless they are given) and then at the plans,
    counts as unsettled. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return planned_batches(home, after=(tables or open_tables(home)).committed_to_all)


def unsettled_plans(home: Home, tables: TableHandles | None = None) -> Iterator[Plan]:
    """The plans of these batches. Raises as `unsettled_batches`."""
    return read_plans(home, after=(tables or open_tables(home)).committed_to_all)
