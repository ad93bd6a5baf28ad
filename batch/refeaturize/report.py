"""What a home's photos lack of a network because their pixels cannot be had, in numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from store.home import Home
from store.objects.document import Document
from store.state.refeaturized import lost_reasons


@dataclass(frozen=True)
class Report:
    """How many photos of each day have no features of a network, by reason. It names no photo: keys are personal."""

    featurizer: str
    written_at: datetime
    lost: Mapping[date, Mapping[str, int]]


_REPORT = Document(Report, "refeaturize/{}.json", remedy="delete it")


def write_report(home: Home, featurizer: str) -> dict[str, int]:
    """Write the report of a featurizer anew, if there is anything to report or a report; returns the sums by reason.

    Raises StateDamaged, StorageUnavailable.
    """
    lost = lost_reasons(home, featurizer)
    if lost or read_report(home, featurizer) is not None:
        _REPORT.write(home.reports, Report(featurizer, datetime.now(UTC), lost), featurizer)
    total: Counter[str] = Counter()
    for reasons in lost.values():
        total.update(reasons)
    return dict(total)


def read_report(home: Home, featurizer: str) -> Report | None:
    """The last report of a featurizer; None if there is none, or if it cannot be read."""
    return _REPORT.read(home.reports, featurizer, unreadable_as_missing=True)


def report_uri(home: Home, featurizer: str) -> str:
    """Where that is."""
    return home.reports.uri_of(_REPORT.key(featurizer))
