"""Photos that are odd among their own set: very dark or bright, blurred, of another size or shape, or of one colour.

What is odd follows from the set: a photo far outside of what most photos are (Tukey's far fences, three times the
distance between the quartiles), and worse than people mind, so that an even set does not make odd what nobody would
call so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodguard.training.photos.kinds import Kind
from oodguard.training.photos.pictures import Pictures

FENCE = 3.0
# Less than this is not dark, bright or blurred: more than `core.quality` asks for, since people look at each of these.
DARK, BRIGHT, BLURRED = 0.6, 0.5, 0.8
# A standard deviation of grey (of 1) below this is one colour.
BLANK = 0.01

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Oddity:
    """A photo by its row, in what it is odd, in words, and how far beyond the quartile it lies, in their distance."""

    row: int
    kind: Kind
    reason: str
    score: float


def oddities(pictures: Pictures) -> list[Oddity]:
    """What is odd in each kind, the oddest first."""
    count = len(pictures.contrast)
    if not count:
        return []
    blank = pictures.contrast < BLANK
    found = [Oddity(int(row), Kind.BLANK, "one colour, without a picture", 1.0) for row in np.flatnonzero(blank)]
    size = np.log2(np.maximum(pictures.sizes.prod(1), 1.0))
    shape = np.log2(pictures.sizes.max(1) / np.maximum(pictures.sizes.min(1), 1.0))
    usual = "half of the photos have {:.0f} x {:.0f} or more".format(*np.median(pictures.sizes, axis=0))

    def dark(row: int) -> str:
        return f"19 in 20 pixels have less than {100 * (1 - pictures.darkness[row]):.0f} % of white"

    def bright(row: int) -> str:
        return f"{100 * pictures.overexposure[row]:.0f} % of it is clipped at white"

    checks = (
        _Check(Kind.SIZE, size, -1, 0.5, float(np.median(size)) - 2, lambda row: f"{_pixels(pictures, row)}; {usual}"),
        _Check(Kind.SHAPE, shape, 1, 0.25, float(np.median(shape)) + 1, lambda row: _pixels(pictures, row)),
        _Check(Kind.DARK, pictures.darkness, 1, 0.05, DARK, dark),
        _Check(Kind.BRIGHT, pictures.overexposure, 1, 0.05, BRIGHT, bright),
        _Check(Kind.BLURRED, pictures.blur, 1, 0.03, BLURRED, lambda row: f"blur {pictures.blur[row]:.2f} of 1"),
    )
    for check in checks:
        beyond = check.beyond
        rows = np.flatnonzero((beyond > FENCE) & (check.side * (check.values - check.mild) > 0) & ~blank)
        for row in rows[np.argsort(-beyond[rows], kind="stable")].tolist():
            found.append(Oddity(row, check.kind, check.words(row), round(float(beyond[row]), 2)))
    return found


@dataclass(frozen=True)
class _Check:
    """Values that may be too small (side -1) or too large (1): beyond `mild`, and far outside of what is usual.

    even: the least distance between the quartiles that counts, for sets in which most photos are the same.
    """

    kind: Kind
    values: Values
    side: int
    even: float
    mild: float
    words: Callable[[int], str]

    @property
    def beyond(self) -> Values:
        """How far the values lie beyond the quartile, in distances between the quartiles."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        found: Values = (self.values - high if self.side > 0 else low - self.values) / max(float(high - low), self.even)
        return found


def _pixels(pictures: Pictures, row: int) -> str:
    return f"{pictures.sizes[row, 0]:.0f} x {pictures.sizes[row, 1]:.0f} pixels"
