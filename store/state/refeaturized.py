"""How many photos of which batches got no features of a network, because their pixels cannot be had any more."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from store.home import Home
from store.objects.document import Document
from store.objects.operations import delete_all, keys_below

# A day of ingestion and a batch: the rows of both are committed together.
BatchOfDay = tuple[date, int]


@dataclass(frozen=True)
class _Day:
    """Numbers only, by batch and by reason: which photos these are is what the tables tell."""

    lost: Mapping[int, Mapping[str, int]]


_DAY = Document(_Day, "refeaturized/{}/{}.json", remedy="delete it", indent=None)


def lost_photos(home: Home, featurizer: str, day: date) -> dict[int, int]:
    """How many photos of each batch of a day were looked for in vain, to give them features of this network.

    Raises StateDamaged, StorageUnavailable.
    """
    stored = _DAY.read(home.state, featurizer, day)
    return {} if stored is None else {batch: sum(reasons.values()) for batch, reasons in stored.lost.items()}


def note_lost_photos(home: Home, featurizer: str, day: date, tried: Mapping[int, Mapping[str, int]]) -> None:
    """Write down how many photos of the batches that were `tried` were in vain, and why; of none, that it was none.

    To be called before the others' features are committed: whoever is killed in between tries the batch again.
    Replay changes nothing. Raises as `lost_photos`.
    """

    def edit(stored: _Day | None) -> _Day:
        known = {**(stored.lost if stored else {}), **tried}
        return _Day({batch: reasons for batch, reasons in sorted(known.items()) if reasons})

    if any(tried.values()) or lost_photos(home, featurizer, day):
        _DAY.change(home.state, edit, featurizer, day)


def lost_reasons(home: Home, featurizer: str) -> dict[date, dict[str, int]]:
    """The same of all days, by reason: the earliest day first. Raises as `lost_photos`."""
    found: dict[date, dict[str, int]] = {}
    for day in _days(home, featurizer):
        stored = _DAY.read(home.state, featurizer, day)
        for reasons in stored.lost.values() if stored else ():
            of_day = found.setdefault(day, {})
            for reason, photos in reasons.items():
                of_day[reason] = of_day.get(reason, 0) + photos
    return found


def forget_lost_photos(home: Home, featurizer: str, before: date) -> None:
    """Delete what is noted of days before one whose rows are kept. Replay deletes what is left."""
    delete_all(home.state, [_DAY.key(featurizer, day) for day in _days(home, featurizer) if day < before])


def _days(home: Home, featurizer: str) -> list[date]:
    below = home.state.child(f"refeaturized/{featurizer}")
    return sorted(date.fromisoformat(key.removesuffix(".json")) for key in keys_below(below) if key.endswith(".json"))
