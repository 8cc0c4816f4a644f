"""A run's own photos, found again: training images to measure ranges on, calibration images to set thresholds on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodguard.core.errors import ImageError, InputError
from oodguard.core.preprocessing import Pixels, Preprocessing, open_image, to_pixels
from oodguard.evaluation.evaluate import options_of
from oodguard.training.backbone.augment import augmented_pixels
from oodguard.training.backbone.features import TRAINING_LIMITS, batches
from oodguard.training.photos.again import photos_of_run
from oodguard.training.photos.division import found_again
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

BATCH = 16


@dataclass(frozen=True)
class RunPhotos:
    """The photos a run was trained and calibrated on."""

    training: tuple[Photo, ...]
    calibration: tuple[Photo, ...]


def run_photos(run: Run, run_folder: Path, *, data: Path | None) -> RunPhotos:
    """The run's training and calibration photos. `data` is where they are now (None: where they were).

    Raises `InputError` when some of them are missing.
    """
    options = options_of(run.record)
    if options.cross_fit:
        raise InputError(
            f"{run_folder} was cross-fitted: all its photos trained it, and a lower precision needs photos that did "
            "not to set its thresholds on; export fp32, or train without --cross-fit"
        )
    photos, source = photos_of(run, data=data)
    try:
        return RunPhotos(
            training=found_again(photos, run.division.training),
            calibration=found_again(photos, run.division.calibration),
        )
    except InputError as error:
        raise InputError(f"{source} is not what {run_folder} was trained on: {error}") from None


def photos_of(run: Run, *, data: Path | None) -> tuple[Photos, Path]:
    """All photos at `data` (None: where the run's were), and that place. Raises `InputError` when nothing is there."""
    options = options_of(run.record)
    source = data or options.data
    return photos_of_run(run.record, run.division, options.model_copy(update={"data": source})), source


def spread(photos: Sequence[Photo], count: int, *, seed: int) -> tuple[Photo, ...]:
    """At most `count` photos, a seeded choice that takes from every class in turn."""
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[Photo]] = {}
    for index in rng.permutation(len(photos)):
        by_class.setdefault(photos[index].label, []).append(photos[index])
    turns = max(map(len, by_class.values()))
    ordered = [
        by_class[label][turn] for turn in range(turns) for label in sorted(by_class) if turn < len(by_class[label])
    ]
    return tuple(ordered[:count])


def pixel_batches(
    photos: Sequence[Photo],
    preprocessing: Preprocessing,
    *,
    stage: str,
    report: Reporter,
    size: int = BATCH,
    view: int = 0,
) -> Iterator[Pixels]:
    """The photos as batches of uint8 `[B, H, W, 3]` of at most `size`; images that cannot be read are passed over.

    view: 0 for what is served; others are those that training augments with.
    """
    for rows in batches(len(photos), size):
        found = []
        for photo in photos[rows]:
            try:
                image = open_image(photo.path.read_bytes(), TRAINING_LIMITS, shrink_for=preprocessing)
                found.append(
                    augmented_pixels(image, preprocessing, identity=photo.sha256, view=view)
                    if view
                    else to_pixels(image, preprocessing)
                )
            except ImageError:
                continue
        if found:
            yield np.stack(found)
        report.progress(stage, rows.stop, len(photos))
