"""What is known of a classifier's photos: labels by its own class names, and whether they may be new to it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodguard.core.classifier import ClassifierRecord
from oodguard.core.errors import InputError
from oodguard.training.photos.labelled import MIN_PER_CLASS, Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.wrapping.classes import ClassMap
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.prepare import Prepared

# Above this accuracy on --data a classifier is taken to have been trained on it, unless somebody says otherwise.
SEEN_ACCURACY = 0.95
# Standard errors by which it must do better than giving the most frequent label.
ABOVE_CHANCE = 3.0


@dataclass(frozen=True)
class Known:
    """The classifier's class names, the photos labelled by them, and the share of `photos.pool` that it labels right.

    accuracy: None where its own answers are the labels.
    """

    names: tuple[str, ...]
    photos: Photos
    accuracy: float | None

    def record(
        self, prepared: Prepared, *, name: str, sha256: str, options: WrapOptions, report: Reporter
    ) -> ClassifierRecord:
        """What the run keeps of the classifier, after saying what the photos cannot show."""
        covered = {photo.label for photo in self.photos.pool}
        uncovered = tuple(one for one in self.names if one not in covered)
        if uncovered:
            more = f" and {len(uncovered) - 6} more" if len(uncovered) > 6 else ""
            report.note(f"no photos of {len(uncovered)} of its classes: {', '.join(uncovered[:6])}{more}")
        fresh = bool(self.photos.held) or options.all_unseen
        seen = not fresh and (self.accuracy is None or self.accuracy >= SEEN_ACCURACY)
        if seen:
            why = "" if self.accuracy is None else f", {self.accuracy:.1%} of which it labels right"
            report.note(
                f"it seems to have been trained on --data{why}: thresholds come from changed views of these photos, "
                "and new ones may be flagged more or less often than promised; give photos that it was not trained on "
                "with --unseen or in val/, or say --all-unseen"
            )
        if options.labels == "model":
            report.note(
                "labels are its own answers: nothing says how often it is right, so answers hold no label sets and no "
                "decision"
            )
        return prepared.record().model_copy(
            update={
                "file": name,
                "sha256": sha256,
                "uncovered": uncovered,
                "unseen": None if options.unseen is None else str(options.unseen),
                "seen": seen,
                "labels": options.labels,
            }
        )


def require_knowledge(accuracy: float, targets: npt.NDArray[np.int64]) -> None:
    """Raise `InputError` for a classifier that does no better than giving the most frequent of `targets`."""
    if not len(targets):
        raise InputError("none of the photos is of one of the classifier's classes; see --classes and --classes-map")
    chance = np.bincount(targets).max() / len(targets)
    if accuracy <= chance + ABOVE_CHANCE * float(np.sqrt(chance * (1.0 - chance) / len(targets))):
        raise InputError(
            f"the classifier labels {accuracy:.1%} of the photos right, and always giving the most frequent label "
            f"would label {chance:.1%}: its preprocessing, the order of its classes or the photos are others; see "
            "--preprocessing, --classes and --classes-map"
        )


def with_labels(photos: Sequence[Photo], labels: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Photo, ...]:
    """The photos, each with the name of the class that `labels` gives it."""
    return tuple(dataclasses.replace(photo, label=names[label]) for photo, label in zip(photos, labels, strict=True))


def renamed(photos: Sequence[Photo], names: ClassMap) -> tuple[Photo, ...]:
    """The photos of the classifier's classes, by its names."""
    found = zip(photos, names.targets(photo.label for photo in photos), strict=True)
    return tuple(dataclasses.replace(photo, label=names.names[index]) for photo, index in found if index >= 0)


def enough(photos: Photos, report: Reporter, *, read: Collection[str] | None = None) -> Photos:
    """The photos without classes of which there are too few to learn anything about.

    read: the SHA-256 of those that can be read; None: all can.

    Raises `InputError` where fewer than two classes are left.
    """
    counts = Counter(photo.label for photo in photos.pool)
    if read is not None:
        counts -= Counter(photo.label for photo in photos.pool if photo.sha256 not in read)
    known = {label for label, count in counts.items() if count >= MIN_PER_CLASS}
    if few := sorted({photo.label for photo in photos.pool} - known):
        report.note(f"too few photos to learn from of {', '.join(few[:6])}: these classes count as uncovered")
    if len(known) < 2:
        raise InputError("the photos show fewer than 2 of the classifier's classes; give photos of more")
    every = {photo.label for photo in (*photos.pool, *photos.held, *photos.test)}
    return photos.without(frozenset(every - known))
