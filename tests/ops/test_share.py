"""A share tells how far it can be trusted."""

import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]

from ops.share import Share, share_of


@pytest.mark.parametrize(("number", "of"), [(0, 1), (1, 1), (3, 7), (415, 482), (0, 300), (300, 300)])
def test_the_interval_is_wilsons(number: int, of: int) -> None:
    interval = binomtest(number, of).proportion_ci(0.95, "wilson")
    found = share_of(number, of)
    assert found.share == number / of
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_of_none_there_is_no_share() -> None:
    assert share_of(0, 0) == Share(0, 0, None, None, None)
    assert (str(share_of(0, 0)), share_of(0, 0).brief) == ("", "")


def test_in_words_it_tells_of_how_many() -> None:
    assert str(share_of(415, 482)) == "86.1% of 482 (82.7 to 88.9%)"
    assert share_of(1500, 3000).brief == "50.0% of 3,000"
