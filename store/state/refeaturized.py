"""How many photos of which batches cannot get features of a network, because their pixels cannot be had any more."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from store.home import Home
from store.objects.document import Document

# A day of ingestion and a batch: the rows of both are committed together.
BatchOfDay = tuple[date, int]


@dataclass(frozen=True)
class _Lost:
    ingest_date: date
    batch: int
    photos: int


@dataclass(frozen=True)
class _Refeaturized:
    """Numbers only: which photos these are is what the tables tell."""

    lost: tuple[_Lost, ...] = ()


_REFEATURIZED = Document(_Refeaturized, "refeaturized/{}.json", remedy="delete it", indent=None)


def lost_photos(home: Home, featurizer: str) -> dict[BatchOfDay, int]:
    """How many photos of a batch were looked for in vain when they were to get features of this network.

    Raises StateDamaged, StorageUnavailable.
    """
    stored = _REFEATURIZED.read(home.state, featurizer) or _Refeaturized()
    return _by_batch(stored.lost)


def note_lost_photos(
    home: Home, featurizer: str, tried: Mapping[BatchOfDay, int], kept: Collection[BatchOfDay] | None = None
) -> None:
    """Write down how many photos of the batches that were `tried` were in vain: 0 takes a batch off the list.

    With `kept`, batches that are not among them go. Replay changes nothing. Raises as `lost_photos`.
    """

    def edit(stored: _Refeaturized | None) -> _Refeaturized:
        known = {**_by_batch((stored or _Refeaturized()).lost), **tried}
        left = ((batch, photos) for batch, photos in sorted(known.items()) if photos)
        return _Refeaturized(
            tuple(_Lost(*batch, photos) for batch, photos in left if kept is None or batch in kept or batch in tried)
        )

    if any(tried.values()) or lost_photos(home, featurizer):
        _REFEATURIZED.change(home.state, edit, featurizer)


def _by_batch(lost: Iterable[_Lost]) -> dict[BatchOfDay, int]:
    return {(one.ingest_date, one.batch): one.photos for one in lost}
