"""A table is opened from its log, whatever storage does meanwhile."""

from collections.abc import Callable

from store.settings import Settings
from store.tables.handles import create_tables, open_table
from store.tables.schemas import REJECT_ROWS
from tests.support.fault_proxy import Rule, set_rules


def test_a_checkpoint_that_storage_does_not_hand_out_is_no_damage(
    s3_settings: Callable[..., Settings], proxy: str
) -> None:
    home = s3_settings(s3_endpoint=proxy).places()
    create_tables(home)
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    handle.create_checkpoint()
    set_rules(proxy, Rule("GET", r"checkpoint\.parquet", answer=503, times=8))
    assert open_table(home, REJECT_ROWS) is not None
