"""The known photos that are nearest to others in the served PCA space, as the query `nearest` finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.errors import AnotherRefit
from store.home import Home
from store.models.pca_models import current_models
from store.tables.files import data_files, read_file
from store.tables.handles import open_table
from store.tables.labels import SaidLabels, said_labels
from store.tables.schemas import PROJECTION_ROWS

_COLUMNS = ("image_id", "label", "source", "pca")
# Copies of one photo have the same coordinates; products that tell distances round them differently.
_ROUNDING = 1e-6


@dataclass
class Neighbour:
    """A known photo, its Euclidean distance, and how many rows have its bytes; of its sources the first by name."""

    image_id: str
    label: str | None
    source: str
    distance: float
    copies: int = 1


def nearest(
    home: Home, version: int, coordinates: NDArray[np.float32], image_ids: Sequence[str], most: int
) -> list[list[Neighbour]]:
    """The nearest known photos of each row (n, k) of coordinates, nearest first; a row's own photo is the very first.

    `image_ids` (n,) are those of the rows; a photo that is known itself comes before `most` others. Each known row is
    read once, and shows the label that counts. Raises AnotherRefit when the version is no longer served, StateDamaged,
    StorageUnavailable.
    """
    handle = open_table(home, PROJECTION_ROWS)
    # Projections of a version that is served are not pruned.
    if current_models(home).serving != version:
        raise AnotherRefit(f"Version {version} gave way to another one meanwhile; run this again.")
    found = [_Nearest(row, image_id, most) for row, image_id in zip(coordinates, image_ids, strict=True)]
    wide = coordinates.astype(np.float64)
    of_rows = np.einsum("nk,nk->n", wide, wide)
    for file in data_files(handle):
        if file.partition["pca_version"] != version:
            continue
        for rows in read_file(home, PROJECTION_ROWS, file.path, _COLUMNS):
            known = rows["pca"].flatten().to_numpy().reshape(rows.num_rows, -1).astype(np.float64)
            squares = np.einsum("nk,nk->n", known, known)
            distances = np.sqrt(np.maximum(of_rows[:, None] + squares - 2 * wide @ known.T, 0))
            for one, to_known in zip(found, distances, strict=True):
                one.look_at(rows, known, to_known)
    said = said_labels(home)
    for one in found:
        one.look_up(said)
    return [one.in_order() for one in found]


class _Nearest:
    """The nearest photos of one row among the rows looked at so far; one that stays has all its copies counted."""

    def __init__(self, coordinates: NDArray[np.float32], image_id: str, most: int) -> None:
        self._coordinates = coordinates.astype(np.float64)
        self._image_id = image_id
        # With the photo itself.
        self._most = most + 1
        self._found: dict[str, Neighbour] = {}
        self._farthest = np.inf

    def look_at(self, rows: pa.RecordBatch, known: NDArray[np.float64], distances: NDArray[np.float64]) -> None:
        [near] = np.nonzero(distances <= self._farthest + _ROUNDING * (1 + distances))
        for place in near[np.argsort(distances[near], kind="stable")].tolist():
            if distances[place] > self._farthest + _ROUNDING * (1 + distances[place]):
                break
            image_id, label, source = (rows[name][place].as_py() for name in ("image_id", "label", "source"))
            neighbour = self._found.get(image_id)
            if neighbour is None:
                distance = float(np.linalg.norm(known[place] - self._coordinates))
                self._found[image_id] = Neighbour(image_id, label, source, distance)
                self._drop_farthest()
            else:
                neighbour.copies += 1
                if source < neighbour.source:
                    neighbour.source, neighbour.label = source, label

    def look_up(self, said: SaidLabels) -> None:
        """Give the photos the labels that count."""
        some = list(self._found.values())
        columns = {name: pa.array([getattr(one, name) for one in some], pa.string()) for name in ("image_id", "label")}
        for one, label in zip(some, said.labels_of(pa.table(columns)).to_pylist(), strict=True):
            one.label = label

    def in_order(self) -> list[Neighbour]:
        ascending = sorted(self._found.values(), key=lambda one: (one.image_id != self._image_id, *_rank(one)))
        return ascending if ascending and ascending[0].image_id == self._image_id else ascending[: self._most - 1]

    def _drop_farthest(self) -> None:
        if len(self._found) > self._most:
            del self._found[max(self._found.values(), key=_rank).image_id]
        if len(self._found) == self._most:
            self._farthest = max(one.distance for one in self._found.values())


def _rank(neighbour: Neighbour) -> tuple[Any, ...]:
    return neighbour.distance, neighbour.image_id
