"""Pictures to calibrate an int8 network on: the home's own photos, else drawn ones."""

import hashlib
import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights.network import sample_pictures
from features.featurizer import INPUT_PX, Recipe
from features.image import Limits, decode
from features.rejects import Rejected
from store.home import Home
from store.objects.landing import fetch, list_landed
from store.objects.location import StorageLocation

# Measured with trained weights on 40 photos that no network was calibrated on: a mean cosine with float32 of 0.994
# for any number of photos from 4 to 128, at some 0.1 s each.
PHOTOS = 32
FEWEST_PHOTOS = 8


class Calibration(NamedTuple):
    """Pictures (n, input_px, input_px, 3), 0 to 255, and what they are, for a person: 32 photos of the landing."""

    pictures: NDArray[np.uint8]
    description: str


def choose_pictures(home: Home, limits: Limits, echo: Callable[[str], None], input_px: int = INPUT_PX) -> Calibration:
    """Up to 32 photos from all over the landing, else of the archive, else drawn pictures, which `echo` tells.

    The keys alone decide which photos are fetched, at most 64, so that a replay chooses the same ones. Unusable photos
    are left out. Raises StorageUnavailable when storage does not answer.
    """
    found = 0
    for name, place in (("landing", home.landing), ("archive", home.archive)):
        photos = _photos(place, limits, input_px)
        if len(photos) >= FEWEST_PHOTOS:
            return Calibration(np.stack(photos), f"{len(photos)} photos of the {name}")
        found += len(photos)
    echo(
        f"Calibrating on drawn pictures: {FEWEST_PHOTOS} usable photos in the landing or the archive would do, and "
        f"there are {found}. Photos of your own, landed before, are the safer choice."
    )
    return Calibration(sample_pictures(PHOTOS, seed=0, input_px=input_px), f"{PHOTOS} drawn pictures")


def _photos(place: StorageLocation, limits: Limits, input_px: int) -> list[NDArray[np.uint8]]:
    affordable = (landed for landed in list_landed(place) if landed.size_bytes <= limits.max_image_bytes)
    photos: list[NDArray[np.uint8]] = []
    # Drawn by the key, so that neither a label nor a day of photos crowds out the others.
    for landed in heapq.nsmallest(2 * PHOTOS, affordable, lambda landed: hashlib.sha256(landed.key.encode()).digest()):
        if len(photos) == PHOTOS:
            break
        try:
            photos.append(decode(fetch(place, landed), limits, Recipe(input_px)).pixels)
        except Rejected:
            continue
    return photos
