"""What training says of its photos in a few lines, from what it has anyway: bytes, features and labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oodguard.core.grey_levels import GreyLevels
from oodguard.core.text import visible
from oodguard.training.photos.copies import same_files
from oodguard.training.photos.duplicates import duplicate_lines
from oodguard.training.photos.label_suspects import label_opinion
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.record import PhotoFaults

# Above this, an opinion on labels takes more than a few seconds.
MAX_OPINION = 20_000
NAMED = 20


def photo_faults(
    photos: Photos,
    pool: Sequence[Photo],
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    seed: int = 0,
    grey_levels: GreyLevels | None = None,
) -> PhotoFaults:
    """What is wrong with the readable photos of `pool`, from their frozen features `[N, D]` and class numbers `[N]`."""
    counts = Counter(photo.label for photo in pool)
    in_classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for photo in pool:
        in_classes[photo.sha256][photo.label] += 1
    opinion = None
    if len(pool) <= MAX_OPINION:
        opinion = label_opinion(features, labels, same_files(pool), seed=seed)
    suspects = [] if opinion is None else opinion.suspects.tolist()
    return PhotoFaults(
        smallest=min(counts.values()),
        largest=max(counts.values()),
        copies=sum(number - 1 for classes in in_classes.values() for number in classes.values()),
        copies_across=sum(len(classes) - 1 for classes in in_classes.values()),
        labels=None if opinion is None else len(suspects),
        first_labels=tuple(photos.name(pool[row]) for row in suspects[:NAMED]),
        left_out=dict(photos.left_out),
        duplicates=photos.duplicates,
        grey_levels=grey_levels,
        passed=len(photos.passed),
        first_passed=tuple(f"{file.name}: {file.reason}" for file in photos.passed[:NAMED]),
        layout=photos.layout,
    )


def fault_lines(faults: PhotoFaults, data: Path, *, unreadable: int) -> tuple[str, ...]:
    """What people read of it: how folders were read, counts, what was passed over, copies and labels.

    A line for each fault that makes figures false follows.
    """
    counts = f"photos: {faults.smallest:,} to {faults.largest:,} in a class, {unreadable:,} unreadable"
    if faults.left_out:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in faults.left_out.items())
        counts += f"; --exclude left out {sum(faults.left_out.values()):,} ({kinds})"
    copies = f"copies: {faults.copies:,} files are in their class twice, {faults.copies_across:,} in two classes"
    if faults.labels is None:
        labels = "labels: not looked at"
    elif not faults.labels:
        labels = "labels: none looks wrong"
    else:
        first = visible(faults.first_labels[0])
        labels = f"labels: {faults.labels:,} look wrong, the first: {first}"
    if faults.copies or faults.copies_across or faults.labels or faults.labels is None or unreadable:
        labels += f"; see them: oodguard check {visible(str(data))}"
    false = () if faults.duplicates is None else duplicate_lines(faults.duplicates)
    grey = () if faults.grey_levels is None else (f"warning: {faults.grey_levels.sentence}",)
    layout = (f"folders: {faults.layout}",) if faults.layout else ()
    return *layout, counts, *passed_lines(faults), copies, labels, *false, *grey


def passed_lines(faults: PhotoFaults) -> tuple[str, ...]:
    """A line that names files which training does not read; none where there are none."""
    if not faults.passed:
        return ()
    files = "file is" if faults.passed == 1 else "files are"
    return (f"passed over: {faults.passed:,} {files} not read, the first: {visible(faults.first_passed[0])}",)
