"""Whether a picture is fit to be judged: its blur, darkness, overexposure and smallness beside the training photos'.

All of it is measured on what is decoded anyway, in some tens of microseconds, and it moves no threshold: it says of a
flagged image whether a bad picture may be the cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from oodguard.core.bands import Bands
from oodguard.core.curve import QuantileCurve
from oodguard.core.decoding import DecodingRoom, LightRoom
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import (
    DEFAULT_LIMITS,
    ImageLimits,
    Pixels,
    Preprocessing,
    opened_within,
    size_of,
    to_pixels,
)

# What is measured, as answers name it.
TRAITS = ("blur", "darkness", "overexposure", "smallness")
# Lines of pixels that are looked at, in each direction: what it costs does not grow with the square of the side.
LINES = 28
# The distances whose differences are compared, in pixels of the input.
NEAR, FAR = 1, 4
# In squared levels of light, for pictures without any difference: far below what the rounding of pixels makes.
NOTHING = 0.01
# A direction with a smaller share of the other's differences says nothing: stripes are not blurred along themselves.
FAINT = 0.02
# The share of a picture that may be lamps and reflections.
HIGHLIGHTS = 0.05
# A level of light at which no more detail is seen.
CLIPPED = 250
# Order statistics of each trait that are kept.
MOST_LEVELS = 64
# The share of training photos that a trait calls usual, and how far beyond these a picture is extreme: in distances
# from the median, of which few photos say less.
USUAL, MARGIN, MARGIN_OF_FEW = 0.995, 0.1, 10.0

Light = npt.NDArray[np.float64]


class Unfitness(StrEnum):
    """Why a picture is unfit. Of several reasons the first of these is given: enlarging and darkness blur, too."""

    SMALL = "small"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    BLURRED = "blurred"


@dataclass(frozen=True, slots=True)
class Traits:
    """What is measured on a picture; each is higher for a picture that is worse.

    blur: 0 (as rough as noise) over 0.5 (sharp edges) to 1 (smooth), of the worse direction: `log16(D(4) / D(1))`,
    where `D(k)` is the mean squared difference of the light of pixels k apart. Across sharp edges it grows with k,
    across blurred ones with its square. A picture is compared with itself, so that neither plain subjects nor dim light
    are blurred; without any difference it is 1.

    darkness: 0 (white) to 1 (black): 1 - the level, of 1, that all but the lightest 5 % of the pixels stay below, by
    the brightest channel of each. overexposure: the share of pixels whose light is clipped, 0 to 1.

    smallness: log2 of what the picture's sides are multiplied by to fit the input; above 0 it is enlarged. None: nobody
    knows, because the pixels came as the input.

    Light is the green channel. Rounded to four digits, and computed alike on every machine.
    """

    blur: float
    darkness: float
    overexposure: float
    smallness: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: the graph's input `[height, width, 3]`, and its traits."""

    pixels: Pixels
    traits: Traits


class Quality(Frozen):
    """How unfit a picture is beside the training photos: of each trait, the percentage of them that have less of it.

    `reason`: the trait that is extreme: beyond what the worst of 200 training photos has, and a margin; null for nearly
    every usual picture. `smallness` is null where pixels came as the network's input.
    """

    blur: float = Field(ge=0, le=100)
    darkness: float = Field(ge=0, le=100)
    overexposure: float = Field(ge=0, le=100)
    smallness: float | None = Field(None, ge=0, le=100)
    reason: Unfitness | None = None


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What nobody would call extreme: a trait below `mild`, or less than `least` beyond the usual."""

    mild: float
    least: float


BOUNDS = {
    Unfitness.SMALL: _Bounds(mild=0.5, least=0.25),
    Unfitness.DARK: _Bounds(mild=0.25, least=0.02),
    Unfitness.OVEREXPOSED: _Bounds(mild=0.05, least=0.01),
    Unfitness.BLURRED: _Bounds(mild=0.6, least=0.01),
}


class QualityScale(Frozen):
    """The quantile curve of each trait on training photos.

    ```python
    scale = QualityScale.fit(picture_of(path, preprocessing).traits for path in photos)
    quality = scale.quality(picture.traits)
    ```
    """

    blur: QuantileCurve
    darkness: QuantileCurve
    overexposure: QuantileCurve
    smallness: QuantileCurve

    @classmethod
    def fit(cls, photos: Iterable[Traits]) -> QualityScale:
        """The curves of photos of known size. Raises `ValueError` without any."""
        found = [(one.blur, one.darkness, one.overexposure, one.smallness) for one in photos]
        columns = np.array([row for row in found if row[3] is not None], dtype=np.float64)
        if not len(columns):
            raise ValueError("a scale of quality needs photos")
        blur, darkness, overexposure, smallness = (QuantileCurve.fit(one, most=MOST_LEVELS) for one in columns.T)
        return cls(blur=blur, darkness=darkness, overexposure=overexposure, smallness=smallness)

    @cached_property
    def limits(self) -> dict[Unfitness, float]:
        """What a trait must be above to be the reason.

        The level that 99.5 % of the training photos stay at or below, and a margin: `0.1 + 10 / n` of its distance from
        the median, for n photos.
        """
        curves = (self.smallness, self.darkness, self.overexposure, self.blur)
        return {reason: _limit(curve, BOUNDS[reason]) for reason, curve in zip(Unfitness, curves, strict=True)}

    def quality(self, traits: Traits) -> Quality:
        """The quality of a picture with these traits."""
        smallness = traits.smallness
        return Quality.model_construct(
            blur=round(self.blur.percentile_of(traits.blur), 1),
            darkness=round(self.darkness.percentile_of(traits.darkness), 1),
            overexposure=round(self.overexposure.percentile_of(traits.overexposure), 1),
            smallness=None if smallness is None else round(self.smallness.percentile_of(smallness), 1),
            reason=self.reason(traits),
        )

    def reason(self, traits: Traits) -> Unfitness | None:
        """Why a picture with these traits is unfit; None for a usual one."""
        values = (traits.smallness, traits.darkness, traits.overexposure, traits.blur)
        for (reason, limit), value in zip(self.limits.items(), values, strict=True):
            if value is not None and value > limit:
                return reason
        return None


def traits_of(pixels: Pixels, *, scaling: float | None = None) -> Traits:
    """The traits of `[height, width, 3]` uint8; scaling: what the picture's sides were multiplied by."""
    step = max(1, min(pixels.shape[:2]) // LINES)
    start = step // 2
    across = pixels[start::step, :, 1].astype(np.float64)
    down = pixels[:, start::step, 1].astype(np.float64)
    few = pixels[start::step, start::step]
    brightest = np.sort(np.maximum(np.maximum(few[..., 0], few[..., 1]), few[..., 2]), axis=None)
    return Traits(
        blur=round(_blur(across, down), 4),
        darkness=round(1.0 - float(brightest[int((1.0 - HIGHLIGHTS) * len(brightest))]) / 255.0, 4),
        overexposure=round(int(np.count_nonzero(few[..., 1] >= CLIPPED)) / len(brightest), 4),
        smallness=None if scaling is None else round(math.log2(scaling), 4),
    )


def picture_from(image: Image.Image | Bands, preprocessing: Preprocessing) -> Picture:
    """An image of `open_image` or `upright` as the graph takes it, and its traits."""
    pixels = to_pixels(image, preprocessing)
    return Picture(pixels, traits_of(pixels, scaling=preprocessing.scaling(*size_of(image))))


def load_picture(
    data: bytes,
    preprocessing: Preprocessing,
    limits: ImageLimits = DEFAULT_LIMITS,
    room: DecodingRoom | LightRoom | None = None,
) -> Picture:
    """As `load_pixels`, with the traits. Raises `ImageError`."""
    with opened_within(data, limits, preprocessing, room) as image:
        return picture_from(image, preprocessing)


def _blur(across: Light, down: Light) -> float:
    """The blur of light along rows `[N, width]` and along columns `[height, N]`; see `Traits`."""
    near = _mean_square(across[:, NEAR:] - across[:, :-NEAR]), _mean_square(down[NEAR:] - down[:-NEAR])
    far = _mean_square(across[:, FAR:] - across[:, :-FAR]), _mean_square(down[FAR:] - down[:-FAR])
    smooth = (
        math.log((b + FAR**2 * NOTHING) / (a + NOTHING), FAR**2)
        for a, b in zip(near, far, strict=True)
        if b >= FAINT * max(far)
    )
    return min(1.0, max(0.0, *smooth))


def _mean_square(differences: Light) -> float:
    # A sum of whole numbers is exact, in whatever order a machine adds them.
    flat = differences.ravel()
    return float(np.dot(flat, flat)) / len(flat) if len(flat) else 0.0


def _limit(curve: QuantileCurve, bounds: _Bounds) -> float:
    usual = curve.threshold(min(USUAL, curve.max_accept))
    margin = (MARGIN + MARGIN_OF_FEW / curve.samples) * (usual - curve.threshold(min(0.5, curve.max_accept)))
    return max(bounds.mild, usual + max(margin, bounds.least))
