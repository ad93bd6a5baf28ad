"""Transactions of bounded size, of one day each, that never split a batch."""

from datetime import date

from batch.refeaturize.selection import Share, shares_of

MONDAY, TUESDAY = date(2026, 10, 5), date(2026, 10, 6)
LACKS = {(MONDAY, 1): 40, (MONDAY, 2): 50, (MONDAY, 3): 20, (TUESDAY, 4): 500, (TUESDAY, 5): 10}


def test_a_batch_is_never_split_and_days_are_never_mixed() -> None:
    assert shares_of(LACKS, 100, newest_first=False) == [
        Share(MONDAY, frozenset({1, 2}), 90),
        Share(MONDAY, frozenset({3}), 20),
        Share(TUESDAY, frozenset({4}), 500),
        Share(TUESDAY, frozenset({5}), 10),
    ]


def test_the_newest_day_can_come_first() -> None:
    assert [share.batches for share in shares_of(LACKS, 100, newest_first=True)] == [{5}, {4}, {3, 2}, {1}]
