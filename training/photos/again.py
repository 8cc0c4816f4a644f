"""The photos of a run, found again where they are now."""

from __future__ import annotations

from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.training.options import DIGITS, TrainOptions
from oodguard.training.photos.labelled import Photo, Photos, every_photo, load_photos
from oodguard.training.record import DivisionRecord, RunRecord


def photos_of_run(record: RunRecord, division: DivisionRecord, options: TrainOptions) -> Photos:
    """All photos under `options.data`.

    Around a wrapped classifier folders need not be named like classes: photos are then known by their content, and have
    the labels that the run gave them. Raises `InputError` where nothing is there.
    """
    if not options.data.exists() and str(options.data) != DIGITS:
        raise InputError(
            f"the photos {record.name or 'that the run'} was trained on are needed and {options.data} does not exist; "
            "say where they are with --data"
        )
    if record.classifier is None:
        return load_photos(options.data, options.cache, options.folder_rules)
    found = every_photo(options.data, options.cache, options.folder_rules)
    unseen = record.classifier.unseen
    if unseen is not None and Path(unseen).exists():
        found += every_photo(Path(unseen), options.cache, options.folder_rules)
    return Photos(
        pool=_relabelled(found, division.training),
        test=_relabelled(found, division.test),
        held=_relabelled(found, division.calibration),
    )


def _relabelled(
    photos: tuple[Photo, ...], part: dict[str, dict[str, int]] | dict[str, dict[str, int | None]]
) -> tuple[Photo, ...]:
    labels = {sha256: label for label, found in part.items() for sha256 in found}
    return tuple(
        Photo(path=photo.path, label=labels[photo.sha256], sha256=photo.sha256)
        for photo in photos
        if photo.sha256 in labels
    )
