"""A batch is unsettled from its plan on until all tables have it."""

from datetime import UTC, date, datetime

from store.home import Home
from store.state.plans import Plan, write_plan
from store.tables.commits import commit
from store.tables.handles import create_tables, open_tables, unsettled_batches, unsettled_plans
from store.tables.schemas import TABLES


def _plan(home: Home, batch: int) -> None:
    write_plan(home, Plan(batch, "n", datetime.now(UTC), date(2026, 10, 3), home.landing.source, "", "f", ()))


def test_a_batch_is_unsettled_until_the_last_table_has_it(home: Home) -> None:
    _plan(home, 1)
    # There are no tables yet.
    assert unsettled_batches(home) == [1]
    create_tables(home)
    _plan(home, 2)
    for table in TABLES:
        assert unsettled_batches(home) == [1, 2]
        commit(home, table, 1, "a run", [])
    assert unsettled_batches(home) == [2]
    commit(home, TABLES[0], 2, "a run", [])
    tables = open_tables(home)
    assert (tables.committed_to_all, tables.committed_to_any) == (1, 2)
    assert [plan.batch for plan in unsettled_plans(home, tables)] == [2]
