"""`Answering`: which images get an answer, and which labels it holds; fitted on labelled ID photos. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.frozen import Frozen
from oodguard.core.label_sets import Nonconformity
from oodguard.core.sharpening import Sharpening
from oodguard.core.targets import DEFAULT_COVERAGE

Labels = npt.NDArray[np.int64]

# The level at which classes are made alike, and how many photos of its own outweigh what all classes say.
OFFSET_LEVEL = 0.9
OFFSET_PRIOR = 60
# Of fewer photos the quantile at that level is the largest or the one before it: noise, and no property of the class.
OFFSET_MIN = 20
OFFSET_PARTS = 5
MAX_PHOTOS = 2048
# Of the wrong labels that say how sure a label is.
MIN_WRONG = 10


@dataclass(frozen=True)
class LabelledPhotos:
    """What a guard said of N labelled ID photos that it was not trained on.

    surprise: of the fused score of all scores, `[N]`. probabilities: the graph's, `[N, C]`. targets: true classes,
    `[N]`. groups: number of each photo's group of near-duplicates, `[N]`.
    """

    surprise: Scores
    probabilities: npt.NDArray[np.float32]
    targets: Labels
    groups: Labels

    @cached_property
    def predicted(self) -> Labels:
        """The class that each photo is given, `[N]`."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    @cached_property
    def weights(self) -> Scores:
        """One over the photos of its group, `[N]`: photos of one thing are right or wrong together."""
        _, place, count = np.unique(self.groups, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / count[place], dtype=np.float64)

    @cached_property
    def independent(self) -> int:
        """How many groups there are."""
        return len(np.unique(self.groups))

    def __len__(self) -> int:
        return len(self.targets)

    def and_these(self, others: LabelledPhotos) -> LabelledPhotos:
        """These photos and then `others`, whose groups are numbered alike."""
        return LabelledPhotos(
            surprise=np.concatenate([self.surprise, others.surprise]),
            probabilities=np.concatenate([self.probabilities, others.probabilities]),
            targets=np.concatenate([self.targets, others.targets]),
            groups=np.concatenate([self.groups, others.groups]),
        )

    def rows(self, chosen: Labels) -> LabelledPhotos:
        """The photos at these places."""
        return LabelledPhotos(
            surprise=self.surprise[chosen],
            probabilities=self.probabilities[chosen],
            targets=self.targets[chosen],
            groups=self.groups[chosen],
        )

    def sample(self, count: int, *, seed: int) -> LabelledPhotos:
        """At most `count` of the photos, in their order."""
        if len(self) <= count:
            return self
        return self.rows(np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False)))

    def first(self, count: int) -> LabelledPhotos:
        """The first `count` photos."""
        return self.rows(np.arange(count))


class AnsweredPhotos(Frozen):
    """What is kept of labelled photos, so that any target can be met later; one entry a photo, up to 2,048.

    chance: of the label given. nonconformity: of the true class. weight: one over the photos of its group.
    """

    fused: tuple[float, ...] = Field(min_length=1)
    chance: tuple[float, ...]
    right: tuple[bool, ...]
    nonconformity: tuple[float, ...]
    weight: tuple[float, ...]

    @model_validator(mode="after")
    def _alike(self) -> Self:
        columns = (self.chance, self.right, self.nonconformity, self.weight)
        if any(len(column) != len(self.fused) for column in columns):
            raise ValueError("every column must have one entry a photo")
        if not all(map(math.isfinite, (*self.fused, *self.chance, *self.nonconformity, *self.weight))):
            raise ValueError("every entry must be finite")
        if not all(weight > 0 for weight in self.weight):
            raise ValueError("a weight must be above 0")
        return self

    @cached_property
    def _arrays(self) -> tuple[Scores, Scores, npt.NDArray[np.bool_], Scores, Scores]:
        return (
            np.asarray(self.fused),
            np.asarray(self.chance),
            np.asarray(self.right, dtype=np.bool_),
            np.asarray(self.nonconformity),
            np.asarray(self.weight),
        )

    def cut(self, coverage: float, *, threshold: float) -> float:
        """The largest nonconformity in a label set that holds the true class with chance `coverage`.

        The weighted conformal quantile over the photos that pass `threshold`, as images must to get a label set; a new
        image counts as one more group. Infinite, so that every class is in the set, where so few groups cannot
        promise less.
        """
        fused, _, _, values, weights = self._arrays
        passed = fused <= threshold
        order = np.argsort(values[passed], kind="stable")
        below = np.cumsum(weights[passed][order]) / (weights[passed].sum() + 1.0)
        place = int(np.searchsorted(below, coverage - 1e-12))
        return float(values[passed][order][place]) if place < len(below) else math.inf

    def least_chance(self, max_error: float, *, threshold: float) -> float:
        """The chance that a label needs to be given as an answer: 1 and more where no chance suffices.

        Of the photos that pass `threshold`, the least chance c such that at every chance from c up the share of wrong
        labels among the photos that have it, with one more wrong group, is at most `max_error`: conformal risk control
        (Angelopoulos et al. 2022) of the error among answers.
        """
        fused, chances, right, _, weights = self._arrays
        passed = fused <= threshold
        chance, wrong, weight = chances[passed], ~right[passed], weights[passed]
        order = np.argsort(-chance, kind="stable")
        risk = (np.cumsum(weight[order] * wrong[order]) + 1.0) / (np.cumsum(weight[order]) + 1.0)
        kept = np.flatnonzero(risk <= max_error)
        return float(chance[order][kept[-1]]) if len(kept) else 2.0


class Answering(Frozen):
    """The part of a calibration that knows classes.

    The fused score that decides is `G = U - offset_p`: U the surprise of the fused score of all scores, p the class
    that an image is given. `curve` is G's own, so that thresholds are exact for the classes together; the offsets make
    the classes alike, as far as their photos say that they differ.
    """

    sharpening: Sharpening
    offsets: tuple[float, ...] = Field(min_length=2, description="by class, in nats")
    curve: QuantileCurve = Field(description="of G")
    nonconformity: Nonconformity = Field(description="the kind with the smaller label sets at a coverage of 0.9")
    photos: AnsweredPhotos

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not all(map(math.isfinite, self.offsets)):
            raise ValueError("an offset must be finite")
        return self

    @classmethod
    def fit(cls, photos: LabelledPhotos, *, keep_probabilities: bool = False) -> Self:
        """Fit every part on labelled ID photos that trained nothing. keep_probabilities: do not sharpen."""
        classes = photos.probabilities.shape[1]
        sharpening = Sharpening()
        if not keep_probabilities:
            sharpening = Sharpening.fit(photos.probabilities, photos.targets, photos.weights)
        offsets = class_offsets(photos.surprise, photos.predicted, classes)
        fused = held_out_fused(photos, classes)
        curve = QuantileCurve.fit(fused, independent=photos.independent)
        chances = sharpening.apply(photos.probabilities)
        kept = {kind: answered_photos(photos, chances, fused, kind) for kind in Nonconformity}

        def mean_size(kind: Nonconformity) -> float:
            cut = kept[kind].cut(DEFAULT_COVERAGE, threshold=math.inf)
            return float(np.maximum(1, (kind.table(chances) <= cut).sum(1)).mean())

        smallest = min(Nonconformity, key=mean_size)
        return cls(
            sharpening=sharpening,
            offsets=tuple(offsets.tolist()),
            curve=curve,
            nonconformity=smallest,
            photos=kept[smallest],
        )

    def renewed(self, curve: QuantileCurve, photos: LabelledPhotos | None = None) -> Self:
        """The same offsets, with the curve of other ID photos' G, and with what their labels say, where they have some.

        Chances are fitted anew only where `MIN_WRONG` labels are wrong: a fit to fewer says nothing about how sure a
        label is. Label sets and decisions keep what they promise either way.
        """
        if photos is None:
            return self.model_copy(update={"curve": curve})
        sharpening = self.sharpening
        wrong = int((photos.predicted != photos.targets).sum())
        if sharpening != Sharpening() and wrong >= MIN_WRONG:
            sharpening = Sharpening.fit(photos.probabilities, photos.targets, photos.weights)
        fused = self.fused(photos.surprise, photos.predicted)
        kept = answered_photos(photos, sharpening.apply(photos.probabilities), fused, self.nonconformity)
        return self.model_copy(update={"curve": curve, "sharpening": sharpening, "photos": kept})

    def fused(self, surprise: Scores, predicted: Labels) -> Scores:
        """G `[B]` of surprises `[B]` and the classes given `[B]`."""
        return np.asarray(surprise - self._offsets[predicted], dtype=np.float64)

    @cached_property
    def _offsets(self) -> Scores:
        return np.asarray(self.offsets, dtype=np.float64)

    def set_size(self, chances: Iterable[float], cut: float) -> int:
        """How many classes are in the label set, from an image's chances in falling order."""
        return self.nonconformity.size(chances, cut)


def class_offsets(
    surprise: Scores, predicted: Labels, classes: int, *, enough: npt.NDArray[np.bool_] | None = None
) -> Scores:
    """How much more surprising the photos given to each class are than all photos are, `[C]` in nats, shrunk.

    The difference of the 90 % quantiles, times n / (n + 60) for a class that n photos were given to: a class with few
    photos is judged like all others, and with fewer than 20 exactly so. The class *given* counts, since no other is
    known of a new image. enough: the classes to judge apart `[C]`; None: those given to 20 of these photos.
    """
    enough = _enough(predicted, classes) if enough is None else enough
    offsets = np.zeros(classes)
    whole = np.quantile(surprise, OFFSET_LEVEL)
    for label in range(classes):
        own = surprise[predicted == label]
        if enough[label] and len(own):
            offsets[label] = (np.quantile(own, OFFSET_LEVEL) - whole) * len(own) / (len(own) + OFFSET_PRIOR)
    return offsets


def _enough(predicted: Labels, classes: int) -> npt.NDArray[np.bool_]:
    return np.bincount(predicted, minlength=classes) >= OFFSET_MIN


def held_out_fused(photos: LabelledPhotos, classes: int) -> Scores:
    """G `[N]` of each photo with the offsets of the other parts' photos: its own would flatter it.

    The classes judged apart are the same in every part, so that a new image is judged as these photos are.
    """
    enough = _enough(photos.predicted, classes)
    _, place = np.unique(photos.groups, return_inverse=True)
    parts = place % min(OFFSET_PARTS, photos.independent)
    fused = np.empty(len(parts))
    for part in np.unique(parts):
        own = parts == part
        rest = ~own if not own.all() else own
        offsets = class_offsets(photos.surprise[rest], photos.predicted[rest], classes, enough=enough)
        fused[own] = photos.surprise[own] - offsets[photos.predicted[own]]
    return fused


def answered_photos(
    photos: LabelledPhotos, chances: npt.NDArray[np.float64], fused: Scores, kind: Nonconformity
) -> AnsweredPhotos:
    """What is kept of photos with chances `[N, C]` and fused scores `[N]`: all of them, or a fixed sample."""
    rows = np.arange(len(chances))
    chosen = rows
    if len(rows) > MAX_PHOTOS:
        chosen = np.sort(np.random.default_rng(0).choice(rows, MAX_PHOTOS, replace=False))
    return AnsweredPhotos(
        fused=_rounded(fused[chosen]),
        chance=_rounded(chances.max(1)[chosen]),
        right=tuple((photos.predicted == photos.targets)[chosen].tolist()),
        nonconformity=_rounded(kind.table(chances)[rows, photos.targets][chosen]),
        weight=_rounded(photos.weights[chosen]),
    )


def _rounded(values: Scores) -> tuple[float, ...]:
    """Eight digits: no table of a manifest needs more."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())
