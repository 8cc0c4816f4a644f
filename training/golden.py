"""The golden images of a run: photos on which export proves its graph, and a server that it answers as exported."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oodguard.core.formats import format_of
from oodguard.core.preprocessing import open_image
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.photos.labelled import Photo
from oodguard.training.record import GOLDEN_FOLDER

GOLDEN_IMAGES = 8


def keep_golden(photos: Sequence[Photo], scratch: Path) -> None:
    """Copy a few calibration images, spread over the classes: export proves its graph on them."""
    folder = scratch / GOLDEN_FOLDER
    folder.mkdir()
    for index, place in enumerate(np.linspace(0, len(photos) - 1, GOLDEN_IMAGES).round().astype(int)):
        path = photos[place].path
        kind = format_of(path.read_bytes())
        if kind is not None and kind.apart:
            # Every server must read them, whatever formats it was told to read.
            open_image(path.read_bytes(), TRAINING_LIMITS).save(folder / f"{index:02d}.png")
        else:
            shutil.copyfile(path, folder / f"{index:02d}{path.suffix.lower()}")
