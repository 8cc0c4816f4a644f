"""A run's own photos, found again: training images to measure ranges on, calibration images to set thresholds on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from oodguard.core.errors import ImageError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels
from oodguard.evaluation.evaluate import options_of
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor, batches
from oodguard.training.backbone.network import load_backbone
from oodguard.training.options import DIGITS
from oodguard.training.photos.division import chosen_photos, divide
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter
from oodguard.training.record import GOLDEN_FOLDER
from oodguard.training.run import Run

BATCH = 16


@dataclass(frozen=True)
class RunPhotos:
    """The photos a run was trained and calibrated on."""

    train: tuple[Photo, ...]
    calibration: tuple[Photo, ...]


def run_photos(run: Run, run_folder: Path, *, data: Path | None, report: Reporter) -> RunPhotos:
    """Divide the run's data as training did.

    `data` is where the photos are now (None: where they were). Raises `InputError` when they are absent, are not the
    ones the run was trained on, or cannot be divided in the same way again.
    """
    options, record = options_of(run.record), run.record
    if data is not None:
        options = options.model_copy(update={"data": data})
    if not options.data.exists() and str(options.data) != DIGITS:
        raise InputError(
            f"the photos {run_folder} was trained on are needed and {options.data} does not exist; "
            "say where they are with --data"
        )
    photos, _ = chosen_photos(options)
    if photos.fingerprint != record.data_fingerprint:
        raise InputError(f"{options.data} is not what {run_folder} was trained on: the images have changed")
    # The division depends on the network before it was tuned.
    original = load_backbone(
        options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
    )
    if original.weights_sha256 != record.backbone.weights_sha256:
        raise InputError(
            f"{run_folder} started from other weights than --weights {options.weights} gives now, so its calibration "
            "images cannot be told from its training images"
        )
    # As the run was trained, and not as a run would be trained today.
    original = replace(original, preprocessing=record.preprocessing)
    extractor = Extractor(original, cache=options.cache, on_unreadable=options.on_unreadable, threads=options.threads)
    division, _ = divide(photos, extractor, options, report)
    # Golden images are calibration images: were one among the training images, this would be another division.
    calibration = {photo.sha256 for photo in division.calibration}
    golden = {file_sha256(path) for path in (run_folder / GOLDEN_FOLDER).iterdir()}
    if len(division.calibration) != record.splits.calibration or not golden <= calibration:
        raise InputError(f"the calibration images of {run_folder} cannot be found again on this machine; train anew")
    return RunPhotos(train=division.train, calibration=division.calibration)


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
    photos: Sequence[Photo], preprocessing: Preprocessing, *, stage: str, report: Reporter
) -> Iterator[Pixels]:
    """The photos as batches of uint8 `[B, H, W, 3]`; images that cannot be read are passed over."""
    for rows in batches(len(photos), BATCH):
        found = []
        for photo in photos[rows]:
            try:
                found.append(load_pixels(photo.path.read_bytes(), preprocessing, TRAINING_LIMITS))
            except ImageError:
                continue
        if found:
            yield np.stack(found)
        report.progress(stage, rows.stop, len(photos))
