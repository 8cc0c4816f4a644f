"""Which photos train, calibrate and test a guard: near-duplicates on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from oodguard.core.calibration import MIN_CALIBRATION
from oodguard.core.errors import InputError
from oodguard.core.grey_levels import few_grey_levels
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor
from oodguard.training.backbone.tail import tail_features
from oodguard.training.options import TrainOptions
from oodguard.training.photos.duplicates import settle
from oodguard.training.photos.faults import fault_lines, photo_faults
from oodguard.training.photos.kinds import parse_kinds
from oodguard.training.photos.labelled import Photo, Photos, load_photos
from oodguard.training.photos.minimum import Minimum, require_enough
from oodguard.training.photos.passed_over import require_all_read
from oodguard.training.photos.split import near_duplicate_groups, split_off
from oodguard.training.photos.suspects import exclude
from oodguard.training.progress import Reporter
from oodguard.training.record import DivisionRecord, PhotoFaults

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Which photos train, calibrate and test a guard.

    groups: near-duplicate group of each grouped photo. faults: what is wrong with the photos.
    """

    training: tuple[Photo, ...]
    calibration: tuple[Photo, ...]
    test: tuple[Photo, ...]
    groups: Mapping[Photo, int]
    faults: PhotoFaults | None = None

    @property
    def largest_group(self) -> int:
        """Photos in the largest near-duplicate group."""
        return max(Counter(self.groups.values()).values())

    @property
    def record(self) -> DivisionRecord:
        """What a run keeps of it."""
        return DivisionRecord(
            training=self._by_class(self.training),
            calibration=self._by_class(self.calibration),
            test=self._by_class(self.test),
        )

    def _by_class(self, photos: Sequence[Photo]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for photo in photos:
            found.setdefault(photo.label, {})[photo.sha256] = self.groups.get(photo)
        return found


def found_again(photos: Photos, part: Mapping[str, Mapping[str, int | None]]) -> tuple[Photo, ...]:
    """The photos of one part of a run's division, wherever their files are now.

    Photos of the user's own test folder have no group and are looked for there first. Raises `InputError` when some
    are missing.
    """
    grouped = any(group is not None for photos_of_class in part.values() for group in photos_of_class.values())
    where = (*photos.pool, *photos.held, *photos.test) if grouped else (*photos.test, *photos.pool)
    found: dict[tuple[str, str], Photo] = {}
    for photo in where:
        if photo.sha256 in part.get(photo.label, ()):
            found.setdefault((photo.label, photo.sha256), photo)
    wanted = sum(map(len, part.values()))
    if len(found) < wanted:
        raise InputError(f"{wanted - len(found)} of the {wanted} photos that the run used are missing")
    return tuple(found.values())


def chosen_photos(options: TrainOptions) -> tuple[Photos, frozenset[str]]:
    """The photos to learn from, and the classes that `leave_out` removes (random, by the run's seed)."""
    photos = load_photos(options.data, options.cache, options.folder_rules)
    if options.exclude is not None:
        photos = exclude(photos, options.exclude, parse_kinds(options.exclude_kinds))
    photos = settle(photos, options.on_duplicate)
    if not options.leave_out:
        return photos, frozenset()
    if options.leave_out > len(photos.classes) - 2:
        raise InputError(
            f"leaving out {options.leave_out} of {len(photos.classes)} classes leaves fewer than 2 to train on"
        )
    rng = np.random.default_rng(options.seed)
    left_out = frozenset(rng.choice(photos.classes, options.leave_out, replace=False).tolist())
    return photos.without(left_out), left_out


def divide(
    photos: Photos, extractor: Extractor, options: TrainOptions, report: Reporter
) -> tuple[Division, Tensor, Tensor]:
    """Drop unreadable images, group near-duplicates on frozen features, and split.

    Also returns the frozen features of the training and of the calibration photos, `[N, D]` each, in their order. With
    `cross_fit` nothing is set aside: all photos but the user's own test folder train, and calibrate out of fold.
    """
    if options.on_unreadable == "refuse":
        require_all_read(photos)
    pool = extractor.readable(
        photos.pool, lambda done, total: report.progress("features of training images", done, total)
    )
    own = extractor.readable(
        photos.held, lambda done, total: report.progress("features of calibration images", done, total)
    )
    test = extractor.readable(photos.test, lambda done, total: report.progress("features of test images", done, total))
    if extractor.unreadable:
        report.note(f"skipped {len(extractor.unreadable)} images that cannot be read (named in the run record)")
    require_enough(Counter(photo.label for photo in pool) + Counter(dict.fromkeys(photos.classes, 0)))
    wrapped = extractor.backbone.rows is not None
    minimum = Minimum(options, tested=bool(test), held=bool(own))
    minimum.require(len(own or pool), wrapped=wrapped)
    pool, whole = (*pool, *own), len(pool)
    frozen = tail_features(extractor.backbone.tail, extractor.extract(pool)[0])
    labels = label_numbers(pool, photos.classes)
    groups = near_duplicate_groups(extractor.backbone.feature(frozen).numpy(), labels)
    faults = photo_faults(
        photos,
        pool,
        extractor.backbone.feature(frozen).numpy(),
        labels,
        seed=options.seed,
        grey_levels=few_grey_levels((photo.path.read_bytes() for photo in pool), TRAINING_LIMITS),
    )
    for line in fault_lines(faults, options.data, unreadable=len(extractor.unreadable)):
        report.note(line)
    rest = held = np.arange(len(pool))
    if own:
        # What a wrapped classifier has not seen calibrates, and tests where there is no test folder.
        rest, held = rest[:whole], held[whole:]
        if not test:
            kept, tested = split_off(
                labels[held], groups[held], fraction=options.test_fraction, seed=options.seed, left=MIN_CALIBRATION
            )
            test, held = tuple(pool[i] for i in held[tested]), held[kept]
    elif not options.cross_fit:
        learn = rest
        if not test:
            learn, tested = split_off(
                labels, groups, fraction=options.test_fraction, seed=options.seed, left=minimum.left
            )
            test = tuple(pool[i] for i in tested)
        rest, held = split_off(
            labels[learn],
            groups[learn],
            fraction=options.calibration_fraction,
            seed=options.seed,
            least=MIN_CALIBRATION,
        )
        rest, held = learn[rest], learn[held]
    if len(held) < MIN_CALIBRATION:
        raise InputError(
            f"only {len(held)} images can be set aside to calibrate thresholds and at least {MIN_CALIBRATION} are "
            f"needed; {_more(own, wrapped=wrapped)}"
        )
    division = Division(
        training=tuple(pool[i] for i in rest),
        calibration=tuple(pool[i] for i in held),
        test=tuple(test),
        groups={photo: int(group) for photo, group in zip(pool, groups, strict=True)},
        faults=faults,
    )
    return division, frozen[rest], frozen[held]


def _more(own: Sequence[Photo], *, wrapped: bool) -> str:
    """What to do about too few photos to calibrate with; `own`: those that were given for that alone."""
    if own:
        return "add images to val/ or --unseen"
    if wrapped:
        return "add images or raise --calibration-fraction"
    return "add images, raise --calibration-fraction, or give --cross-fit 5"


def group_numbers(division: Division, photos: Sequence[Photo]) -> Labels:
    """Near-duplicate groups `[N]` of photos that have one."""
    return np.array([division.groups[photo] for photo in photos], dtype=np.int64)


def label_numbers(photos: Sequence[Photo], classes: Sequence[str]) -> Labels:
    """Class indices `[N]`."""
    number = {label: i for i, label in enumerate(classes)}
    return np.array([number[photo.label] for photo in photos], dtype=np.int64)
