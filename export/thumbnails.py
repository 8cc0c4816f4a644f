"""Small copies of the training photos in the bank, for a bundle that shows them: `oodguard export --thumbnails`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oodguard.core.errors import ImageError, InputError
from oodguard.core.preprocessing import open_image
from oodguard.core.thumbnails import SIDE, small_jpeg, write_thumbnails
from oodguard.export.photos import photos_of
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.photos.division import found_again
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter
from oodguard.training.run import Run


def bank_photos(run: Run, run_folder: Path, *, data: Path | None) -> tuple[Photo, ...]:
    """The photos of a run's bank, once each. `data` is where they are now (None: where they were).

    Raises `InputError` when some of them are missing.
    """
    photos, source = photos_of(run, data=data)
    wanted: dict[str, dict[str, int | None]] = {}
    for index, sha256 in zip(run.bank.class_indices, run.bank.sha256, strict=True):
        wanted.setdefault(run.record.classes[index], {})[sha256] = 0
    try:
        return found_again(photos, wanted)
    except InputError as error:
        raise InputError(f"{source} is not what {run_folder} was trained on: {error}") from None


def pack(photos: tuple[Photo, ...], path: Path, *, report: Reporter) -> None:
    """Write the small copies of `photos`; a photo that cannot be read has none."""

    def pictures() -> Iterator[tuple[str, bytes]]:
        for done, photo in enumerate(photos, 1):
            try:
                image = open_image(photo.path.read_bytes(), TRAINING_LIMITS)
            except ImageError:
                continue
            yield photo.sha256, small_jpeg(image)
            report.progress(f"thumbnails of {SIDE} pixels", done, len(photos))

    write_thumbnails(path, pictures())
