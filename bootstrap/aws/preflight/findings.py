"""The result of a check before a deployment, and the refusal that it may become."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from features.errors import FruitsError

# What a finding that is not fine stands in the way of.
Stops = Literal["nothing", "a new cluster", "everything"]


class NotReady(FruitsError):
    """The account lacks something that a stage needs; nothing was made."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; `stops` is what one that is not `fine` stands in the way of."""

    what: str
    fine: bool
    says: str
    stops: Stops = "nothing"

    def is_fatal(self, new_cluster: bool) -> bool:
        """Whether a deployment cannot succeed, if it makes a cluster or if it makes none."""
        return not self.fine and (self.stops == "everything" or (new_cluster and self.stops == "a new cluster"))


def check_ready(findings: Iterable[Finding], new_cluster: bool) -> None:
    """Raises NotReady with all that stops a deployment, which makes a cluster or makes none."""
    fatal = [finding.says for finding in findings if finding.is_fatal(new_cluster)]
    if fatal:
        raise NotReady(" ".join(fatal))
