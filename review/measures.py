"""What two pictures are compared by: a vector each, and how far apart the vectors of look-alikes may be."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from oodguard.core.errors import ImageError
from oodguard.core.explanation import Neighbour
from oodguard.core.images import OWN_FILES
from oodguard.core.preprocessing import open_image
from oodguard.review.likeness import look_of
from oodguard.review.pictures import SHRUNK, SMALL

Vector = npt.NDArray[np.float32]


class Level(enum.StrEnum):
    """How alike the pictures of a group are; off: each picture is a group of its own."""

    OFF = "off"
    FINE = "fine"
    USUAL = "usual"
    COARSE = "coarse"


@dataclass(frozen=True)
class Measurement:
    """One picture: its unit vector, and the training photos nearest to it where the measure knows them."""

    vector: Vector
    neighbours: tuple[Neighbour, ...] = ()


class Measure(Protocol):
    """A way to compare pictures.

    key: what the vectors depend on beside the picture. rule: for people. limits: the mean of 1 - cosine up to which
    groups are joined, by level.
    """

    key: str
    rule: str
    limits: Mapping[Level, float]

    def measure(self, pictures: Sequence[bytes]) -> list[Measurement | ImageError]:
        """A measurement of each encoded picture, or why there is none."""


class ByLook:
    """Compares small copies (`look_of`): the same scene, shelf or series of shots; not the same kind of thing."""

    key = "look-1"
    rule = "by their look: the same scene or series; with --bundle also by the kind of thing"
    limits: Mapping[Level, float] = {Level.FINE: 0.1, Level.USUAL: 0.2, Level.COARSE: 0.35}

    def measure(self, pictures: Sequence[bytes]) -> list[Measurement | ImageError]:
        """A measurement of each encoded picture, or why there is none."""
        found: list[Measurement | ImageError] = []
        for data in pictures:
            try:
                found.append(Measurement(look_of(open_image(data, OWN_FILES, shrink_for=SHRUNK[SMALL]))))
            except ImageError as error:
                found.append(error)
        return found
