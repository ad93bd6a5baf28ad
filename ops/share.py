"""So many of so many, and how far that can be trusted."""

import math
from dataclasses import dataclass

# Of a normal distribution 95 % lie within so many deviations of its middle.
_SURE = 1.96


@dataclass(frozen=True)
class Share:
    """`number` of `of`, and between what the true share lies with 95 %; all three are None of none."""

    number: int
    of: int
    share: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """`86.1% of 482 (82.7 to 88.9%)`, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.brief} ({100 * self.low:.1f} to {self.high:.1%})"

    @property
    def brief(self) -> str:
        """`86.1% of 482`, or nothing."""
        return "" if self.share is None else f"{self.share:.1%} of {self.of:,}"


def share_of(number: int, of: int) -> Share:
    """A share with its interval. Source: Wilson, "Probable Inference, the Law of Succession" (1927)."""
    if not of:
        return Share(number, of, None, None, None)
    share, z2 = number / of, _SURE**2 / of
    middle, half = share + z2 / 2, math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return Share(number, of, share, max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2)))
