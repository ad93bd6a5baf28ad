"""Rows of a fit that are copies of each other: photos with the same bytes under the same label."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from store.home import Home
from store.models.pca_models import PcaMeta
from store.tables.files import read_file
from store.tables.labels import SaidLabels
from store.tables.schemas import FEATURE_ROWS

if TYPE_CHECKING:
    from pyspark import Broadcast


def keys_of_file(
    home: Home, meta: PcaMeta, said: "Broadcast[SaidLabels]", shares: int, path: str
) -> list[tuple[int, NDArray[np.int64]]]:
    """The keys of the labelled rows of a file that were in the fit, cut into shares by their values."""
    keys: list[int] = []
    for part in read_file(home, FEATURE_ROWS, path, ["image_id", "label", "batch", "featurizer"]):
        labels = said.value.labels_of(part)
        is_in_fit = pc.and_(
            pc.and_(pc.less_equal(part["batch"], meta.last_batch), pc.equal(part["featurizer"], meta.featurizer)),
            pc.is_valid(labels),
        )
        keys += keys_of_copies(part["image_id"].filter(is_in_fit).to_pylist(), labels.filter(is_in_fit).to_pylist())
    array = np.array(keys, np.int64)
    return [(share, array[array % shares == share]) for share in range(shares)]


def counted_twice(share: tuple[int, Iterable[NDArray[np.int64]]]) -> list[tuple[int, int]]:
    """The keys that a share has more than once, and how often."""
    keys, counts = np.unique(np.concatenate(list(share[1])), return_counts=True)
    return [(int(key), int(count)) for key, count in zip(keys, counts, strict=True) if count > 1]


def keys_of_copies(image_ids: Sequence[str], labels: Sequence[str | None]) -> list[int]:
    """A number for each row, the same for rows with the same bytes and label."""
    # Eight bytes: of a billion photos some two would share a key, and be left out together.
    texts = (
        f"{label}\0{image_id}".encode("utf-8", "surrogatepass")
        for image_id, label in zip(image_ids, labels, strict=True)
    )
    return [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1 for text in texts]
