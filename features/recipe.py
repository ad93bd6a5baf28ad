"""How the pixels that a network sees are made of a photo."""

import re
from dataclasses import dataclass

from features.featurizer import INPUT_PX

# The least side a JPEG is decoded to for a network of 224 pixels; for others it grows as they do, since what counts is
# how much finer than the network's own pixels the picture still is. Cosine of its features and those of full decoding,
# the smallest of 14 to 56 photos: 0.997 at 306 pixels, 0.995 at 283, 0.976 at the network's own 224. Of 40 others, for
# networks of 96, 160 and 320 pixels: 0.999, 0.997 and 0.999, where 224 had 0.994.
_DRAFT_PX = 300
_COPY = re.compile(r"copy-(\d+)-q85")


@dataclass(frozen=True)
class Recipe:
    """Pixels for a network of `input_px` a side: from the photo, or from its copy.

    A copy is a JPEG of quality 85 with a short side of `copy_px` to twice that, smaller photos as large as they are.
    """

    input_px: int = INPUT_PX
    copy_px: int | None = None

    @property
    def pixels(self) -> str:
        """The name that a featurizer's description has for it; features of other pixels are another featurizer's."""
        return "draft" if self.copy_px is None else f"copy-{self.copy_px}-q85"

    @property
    def least_px(self) -> int:
        """The least side that a JPEG is decoded to."""
        return draft_px(self.input_px) if self.copy_px is None else self.copy_px


# MobileNetV2's, from the photo itself.
DRAFT = Recipe()


def recipe_of(pixels: str, input_px: int) -> Recipe:
    """The recipe that a featurizer's description names. Raises ValueError for a name that no release has given."""
    match = _COPY.fullmatch(pixels)
    if match is None and pixels != "draft":
        raise ValueError(f"Unknown pixels {pixels!r}.")
    return Recipe(input_px, int(match[1]) if match else None)


def draft_px(input_px: int) -> int:
    """The side that is enough for a network of this input: 300 pixels for 224."""
    return -(-input_px * _DRAFT_PX // INPUT_PX)
