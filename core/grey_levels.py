"""Whether images that should differ are all but one grey: photos whose range of numbers was read wrongly look so."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from oodguard.core.errors import ImageError
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import ImageLimits, open_image

# Photos have some 200 levels each; fewer than this in a whole set are no photos as they were taken.
FEW = 32
# Fewer images than this say nothing of a set, and more than that are not looked at.
FEWEST_IMAGES, MOST_IMAGES = 4, 256


class GreyLevels(Frozen):
    """How many of the 256 grey levels a number of images have together, and the lowest and the highest of them."""

    images: int
    levels: int
    lowest: int
    highest: int

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do."""
        return (
            f"{self.images:,} images looked at have {self.levels} grey levels together, from {self.lowest} to "
            f"{self.highest} of 0 to 255: their numbers are not on the scale that their type has; scale them to all of "
            "it, or save them with 8 bits"
        )


def few_grey_levels(images: Iterable[bytes], limits: ImageLimits) -> GreyLevels | None:
    """The grey levels of encoded images, where all of them together have fewer than `FEW`; None where they have more.

    Reads no further than it must, which is one image of a usual set, and passes over what cannot be decoded.
    """
    count, seen = 0, np.zeros(256, dtype=np.bool_)
    for data in itertools.islice(images, MOST_IMAGES):
        try:
            image = open_image(data, limits)
        except ImageError:
            continue
        count += 1
        seen |= np.asarray(image.convert("L").histogram()) > 0
        if seen.sum() >= FEW:
            return None
    if count < FEWEST_IMAGES:
        return None
    found = np.flatnonzero(seen)
    return GreyLevels(images=count, levels=len(found), lowest=int(found[0]), highest=int(found[-1]))
