"""The calibration of a guard that got one more class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oodguard.core.answering import Answering
from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Outputs


def with_class_calibrated(
    old: Calibration, *, classes: int, photos: tuple[Outputs, npt.NDArray[np.int64]] | None
) -> Calibration:
    """The calibration for one more class than `classes`.

    A class with so few photos is judged like all others: its offset is 0. PDS is a mean over the classes, of which the
    new one adds next to nothing for a photo of the others, so its curve shrinks by C / (C + 1). All else that the fused
    score is made with stays. photos: what the new graph gives for N labelled photos of the old classes that trained
    nothing, and their classes `[N]`: thresholds, label sets and decisions then follow them, and are exact for such
    photos (`Calibration.recalibrated`). Without them they stay, and what they accept is not known.

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
        curves=_scaled(old.curves, scale),
        fusion=old.fusion,
        answering=answering,
        own=_scaled(old.own, scale),
        lipschitz=old.lipschitz,
    )
    return made if photos is None else made.recalibrated(*photos)


def _scaled(curves: dict[ScoreName, QuantileCurve], scale: float) -> dict[ScoreName, QuantileCurve]:
    return {
        name: QuantileCurve(
            samples=curve.samples,
            independent=curve.independent,
            levels=curve.levels,
            values=tuple((scale * np.asarray(curve.values)).tolist()),
        )
        if name is ScoreName.PDS
        else curve
        for name, curve in curves.items()
    }
