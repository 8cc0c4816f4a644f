"""The calibration of a guard that got one more class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from oodguard.core.answering import Answering
from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Outputs


def with_class_calibrated(
    old: Calibration,
    *,
    classes: int,
    moved: Mapping[ScoreName, float],
    photos: tuple[Outputs, npt.NDArray[np.int64]] | None,
) -> Calibration:
    """The calibration for one more class than `classes`.

    A class with so few photos is judged like all others: its offset is 0. PDS is a mean over the classes, of which the
    new one adds next to nothing for a photo of the others, so its curve shrinks by C / (C + 1). moved: by how much each
    other score of the bank's photos moves, by the median: labels are smoothed, so that each class has a floor of
    probability, and one more floor is much where classes are few. Curves move with it.

    photos: what the new graph gives for N labelled photos of the old classes that trained nothing, and their classes
    `[N]`: thresholds, label sets and decisions then follow them, and are exact for such photos
    (`Calibration.recalibrated`). Without them they stay, and what they accept is not known.

    Raises `ValueError` for too few photos.
    """
    answering = old.answering
    if answering is not None:
        # Built anew, not copied: a copy keeps the offsets that it has computed with.
        answering = Answering(
            sharpening=answering.sharpening,
            offsets=(*answering.offsets, 0.0),
            curve=answering.curve,
            nonconformity=answering.nonconformity,
            photos=answering.photos,
        )
    scale = classes / (classes + 1)
    made = Calibration(
        curves=_moved(old.curves, scale, moved),
        fusion=old.fusion,
        answering=answering,
        own=_moved(old.own, scale, moved),
        lipschitz=old.lipschitz,
    )
    return made if photos is None else made.recalibrated(*photos)


def movement(names: Sequence[ScoreName], before: Outputs, after: Outputs) -> dict[ScoreName, float]:
    """The median change of each score, over the same images."""
    return dict(zip(names, np.median(after.scores - before.scores, axis=0).tolist(), strict=True))


def _moved(
    curves: Mapping[ScoreName, QuantileCurve], scale: float, moved: Mapping[ScoreName, float]
) -> dict[ScoreName, QuantileCurve]:
    return {
        name: QuantileCurve(
            samples=curve.samples,
            independent=curve.independent,
            levels=curve.levels,
            values=tuple((scale * value if name is ScoreName.PDS else value + moved[name]) for value in curve.values),
        )
        for name, curve in curves.items()
    }
