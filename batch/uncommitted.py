"""The batches that are planned and that not all tables hold yet."""

from store.home import Home
from store.state.plans import Plan, planned_batches, read_plan
from store.tables.handles import committed_batch, open_table
from store.tables.schemas import TABLES


def last_committed_batch(home: Home) -> int:
    """The number of the last batch that all tables hold; 0 without any. Raises StorageUnavailable."""
    return min(committed_batch(open_table(home, table)) for table in TABLES)


def uncommitted_plans(home: Home) -> list[Plan]:
    """The plans of the batches after that one, ascending. Raises StateDamaged, StorageUnavailable."""
    plans = (read_plan(home, batch) for batch in planned_batches(home, after=last_committed_batch(home)))
    return [plan for plan in plans if plan is not None]
