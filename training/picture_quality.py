"""What pictures the photos of a run are: the scale on which answers say whether a picture is fit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from oodguard.core.allowance import cores
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.quality import QualityScale, Traits, load_picture
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter

# More photos would change no percentile that anybody acts on, and each is decoded once more for it.
MEASURED = 2048


def quality_scale(
    photos: Sequence[Photo], preprocessing: Preprocessing, *, seed: int, threads: int, report: Reporter
) -> QualityScale:
    """The scale of the photos, each counted once; of at most `MEASURED` of them, drawn by the seed."""
    chosen = list({photo.sha256: photo for photo in photos}.values())
    if len(chosen) > MEASURED:
        rows = np.random.default_rng(seed).choice(len(chosen), MEASURED, replace=False)
        chosen = [chosen[row] for row in np.sort(rows).tolist()]
    found: list[Traits] = []
    with ThreadPoolExecutor(threads or cores()) as pool:
        for traits in pool.map(partial(_traits, preprocessing=preprocessing), chosen):
            found.append(traits)
            if len(found) % 16 == 0 or len(found) == len(chosen):
                report.progress("quality of the pictures", len(found), len(chosen))
    return QualityScale.fit(found)


def _traits(photo: Photo, preprocessing: Preprocessing) -> Traits:
    return load_picture(photo.path.read_bytes(), preprocessing, TRAINING_LIMITS).traits
