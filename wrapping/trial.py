"""The usual conventions tried on labelled photos: which of them a classifier was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from oodguard.core.classifier import InputType, Layout
from oodguard.core.errors import ImageError, InputError
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.preprocessing import ImageLimits, Pixels, Preprocessing, load_pixels, network_input
from oodguard.training.progress import Reporter, Silent
from oodguard.wrapping.chosen import sample
from oodguard.wrapping.classes import ClassMap
from oodguard.wrapping.conventions import FLAGS, Convention, Conventions

# The classifier, from arrays as it takes them to probabilities `[B, C]`.
Run = Callable[[npt.NDArray[Any]], npt.NDArray[np.floating[Any]]]

SAMPLE = 256
# Of values that cannot be told apart, as many more as are needed: a wrong one costs more than a wrong fit.
MOST = 768
# Fewer say too little, whatever they say.
MIN_SAMPLE = 20
BATCH = 16
# Photos after which conventions that have clearly lost are dropped.
ROUND = 48
# Chances of a mistake: to drop the right convention in one round, to take a wrong one, to take noise for knowledge.
DROPPED = 1e-4
CLEAR = 0.02
# Probabilities that differ by less on every photo are the same classifier's.
SAME = 1e-3
# A classifier that is surer than this of half of the photos, on numbers that span this much more, is fed too much.
SURE = 1 - 1e-6
LOUD = 16
# Photos of a class that show whether answers are right in another order of classes, and how much more must then be.
REORDERED_PHOTOS = 5
REORDERED = (0.8, 0.25)
# Powers that probabilities are raised to before likelihoods are compared.
POWERS = np.logspace(-3, 1, 41)
# The photos are the user's own: only absurd files are left out.
LIMITS = ImageLimits(max_bytes=1 << 30, max_pixels=400_000_000, max_work=4_800_000_000, formats=FORMAT_NAMES)


@dataclass(eq=False)
class Tried:
    """What the classifier answered with one preprocessing: of each photo, by its place in the sample.

    right: whether the label was; shares: the logarithms of the probabilities, made to sum to 1.
    """

    values: Convention
    fit: Convention
    preprocessing: Preprocessing
    right: dict[int, bool] = field(default_factory=dict)
    targets: dict[int, int] = field(default_factory=dict)
    shares: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    answers: dict[int, int] = field(default_factory=dict)
    _logs: dict[int, float] = field(default_factory=dict)

    @property
    def photos(self) -> int:
        """How many photos it was tried on."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """The share of right labels."""
        return sum(self.right.values()) / max(self.photos, 1)

    @property
    def logs(self) -> dict[int, float]:
        """The log of the true class's probability, of each photo; probabilities to the power that suits them best.

        Numbers that are too large make a classifier surer, and likelihoods as they are would reward that.
        """
        if len(self._logs) < len(self.shares):
            places = list(self.shares)
            table = np.stack([self.shares[place] for place in places]).astype(np.float64)
            true = table[np.arange(len(places)), [self.targets[place] for place in places]]
            tempered = (power * true - np.logaddexp.reduce(power * table, axis=1) for power in POWERS)
            best = max(tempered, key=np.sum)
            self._logs = dict(zip(places, best.tolist(), strict=True))
        return self._logs

    @property
    def log_likelihood(self) -> float:
        """The mean of `logs`."""
        return math.fsum(self.logs.values()) / max(self.photos, 1)

    @property
    def span(self) -> float:
        """From the smallest number that enters the network to the largest, of the channel that spans most."""
        return 255 / (self.preprocessing.scale * min(map(abs, self.preprocessing.std)))

    @property
    def is_saturated(self) -> bool:
        """Whether the classifier has no doubt of half of the photos."""
        return bool(np.median([share.max() for share in self.shares.values()]) >= math.log(SURE))

    @property
    def name(self) -> str:
        """Both conventions, in words."""
        return f"{self.values.name}; {self.fit.name}"

    def add(self, places: Sequence[int], probabilities: npt.NDArray[Any], targets: Sequence[int]) -> None:
        """The answers to some photos, in their order."""
        rows = np.nan_to_num(np.asarray(probabilities, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        # Sigmoids need not sum to 1; a row of nothing is a row of equals.
        shares = np.log(np.maximum(rows, 1e-30))
        shares -= np.logaddexp.reduce(shares, axis=1)[:, None]
        for place, row, share, target in zip(places, rows, shares, targets, strict=True):
            self.right[place] = bool(row.any()) and int(row.argmax()) == target
            self.targets[place] = target
            self.answers[place] = int(row.argmax())
            self.shares[place] = share.astype(np.float32)

    @property
    def reordered_accuracy(self) -> float:
        """The share of right labels, were the classes in the order that suits the answers best."""
        of = {target: place for place, target in enumerate(sorted({*self.targets.values()}))}
        to = {answer: place for place, answer in enumerate(sorted({*self.answers.values()}))}
        counts = np.zeros((len(of), len(to)))
        for place, answer in self.answers.items():
            counts[of[self.targets[place]], to[answer]] += 1
        best = linear_sum_assignment(counts, maximize=True)
        return float(counts[best].sum()) / max(self.photos, 1)

    def forget(self) -> None:
        """Keep the figures, and not the answers."""
        self._logs = dict(self.logs)
        self.shares = dict.fromkeys(self.shares, np.zeros(0, dtype=np.float32))


@dataclass(frozen=True)
class ConventionTrial:
    """All that was tried, the best first, and which of it is right; or the sentence that says why none is.

    chance: the accuracy of always giving the most frequent label.
    """

    tried: tuple[Tried, ...]
    chosen: Tried | None
    fault: str | None
    chance: float
    notes: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that was found. Raises `InputError` where none was."""
        if self.chosen is None:
            raise InputError(self.fault or "no preprocessing was found")
        return self.chosen.preprocessing

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows to print: what was tried, its accuracy, the mean log-likelihood, the photos."""
        return [
            (one.name, f"{one.accuracy:.1%}", f"{one.log_likelihood:.2f}", str(one.photos))
            for one in sorted(self.tried, key=lambda one: (one is self.chosen, _rank(one)), reverse=True)
        ]


def try_conventions(
    run: Run,
    photos: Sequence[Path],
    targets: Sequence[int],
    *,
    conventions: Conventions,
    layout: Layout,
    dtype: InputType,
    report: Reporter | None = None,
    seed: int = 0,
) -> ConventionTrial:
    """Run the classifier on a sample of labelled photos under each convention, and say which it was trained with.

    `targets` are the classifier's classes, -1 where a photo's is none of them. Values are compared with one fit (with
    another, where accuracy is near chance), then fits with the best values. Values are taken only where they are
    clearly better than all others (a paired test), or give the same probabilities; of fits that cannot be told apart
    the most usual is taken. The result holds a fault where accuracy is near chance, or nothing is clearly best. Raises
    `InputError` for too few photos.
    """
    report = report or Silent()
    chosen = sample(targets, most=MOST, seed=seed)
    stage = _Stage(run, [photos[i] for i in chosen], [targets[i] for i in chosen], layout, dtype, report)
    if len(stage.targets) < MIN_SAMPLE:
        raise InputError(
            f"{len(stage.targets)} photos have a class of the classifier's; {MIN_SAMPLE} are needed to find out how it "
            f"wants its images; give more, or {FLAGS}"
        )
    for fit in conventions.first_fits:
        values = [Tried(one, fit, conventions.preprocessing(one, fit)) for one in conventions.values]
        alive = stage.compare(values, "ways to turn pixels into numbers", most=MOST)
        best = alive[0]
        if not best.photos:
            raise InputError("none of the labelled photos can be decoded; give photos that can")
        chance = max(np.bincount([*best.targets.values()])) / best.photos
        fault = _in_other_order(best, values) or _near_chance(best, chance, len(values))
        if fault is None:
            break
    notes: list[str] = []
    if fault is None:
        best, fault = _clear(best, alive[1:], conventions.values, notes)
    if fault is not None:
        return ConventionTrial(tuple(values), None, fault, chance)
    fits = [best] + [
        Tried(best.values, one, conventions.preprocessing(best.values, one))
        for one in conventions.fits
        if one is not best.fit
    ]
    stage.compare(fits, "ways to fit a picture to the input", most=SAMPLE)
    found = _usual(fits, conventions.fits, notes)
    return ConventionTrial((*(one for one in values if one is not best), *fits), found, None, chance, tuple(notes))


def try_class_maps(
    maps: Sequence[ClassMap], attempt: Callable[[ClassMap], ConventionTrial]
) -> tuple[ClassMap, ConventionTrial]:
    """The trial of the map whose classes the classifier knows best, where only the folders' order names its classes."""
    tried = [(one, attempt(one)) for one in maps]
    return max(tried, key=lambda pair: (pair[1].chosen is not None, max(map(_rank, pair[1].tried))))


@dataclass
class _Stage:
    """The sample, and the classifier to run on it."""

    run: Run
    photos: Sequence[Path]
    targets: Sequence[int]
    layout: Layout
    dtype: InputType
    report: Reporter

    def compare(self, tried: Sequence[Tried], what: str, *, most: int) -> list[Tried]:
        """Run all that is tried on the sample, round by round; those that have not clearly lost, the best first.

        Each photo is decoded once for each fit. What ran on the sample before is not run again. After `SAMPLE` photos
        only those that cannot be told from the best go on.
        """
        alive = list(tried)
        count = min(len(self.photos), most)
        with ThreadPoolExecutor() as pool:
            for start in range(0, count, ROUND):
                places = range(start, min(start + ROUND, count))
                going = alive if start < SAMPLE else _rivals(alive)
                if start >= SAMPLE and len(going) == 1:
                    break
                for fit in {one.fit.name: one for one in going}.values():
                    same = [one for one in going if one.fit is fit.fit and not one.right.keys() >= {*places}]
                    for some, pixels in self._pixels(places, fit.preprocessing, pool) if same else ():
                        for one in same:
                            array = network_input(pixels, one.preprocessing, layout=self.layout, dtype=self.dtype)
                            one.add(some, self.run(array), [self.targets[place] for place in some])
                best = max(alive, key=_rank)
                lost = [one for one in alive if one is not best and _chance_of(best, one) <= DROPPED]
                alive = [one for one in alive if one not in lost]
                for one in lost:
                    one.forget()
                self.report.progress(what, places.stop, count)
        return sorted(alive, key=_rank, reverse=True)

    def _pixels(
        self, places: Sequence[int], preprocessing: Preprocessing, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[int], Pixels]]:
        """Batches of the photos that can be decoded, with their places in the sample."""

        def decoded(place: int) -> Pixels | None:
            try:
                return load_pixels(self.photos[place].read_bytes(), preprocessing, LIMITS)
            except (ImageError, OSError):
                return None

        for start in range(0, len(places), BATCH):
            some = list(places[start : start + BATCH])
            pairs = [(place, one) for place, one in zip(some, pool.map(decoded, some), strict=True) if one is not None]
            if pairs:
                yield [place for place, _ in pairs], np.stack([one for _, one in pairs])


def _rivals(tried: Sequence[Tried]) -> list[Tried]:
    """The best, and those that cannot be told from it but are not the same."""
    best = max(tried, key=_rank)
    return [best] + [
        one for one in tried if one is not best and _chance_of(best, one) > CLEAR and _distance(best, one) >= SAME
    ]


def _rank(one: Tried) -> tuple[float, float]:
    return one.accuracy, one.log_likelihood


def _near_chance(best: Tried, chance: float, tries: int) -> str | None:
    """Why the best of several accuracies may be luck: P(Binomial(photos, chance) >= right), for as many tries."""
    right = sum(best.right.values())
    if binom.sf(right - 1, best.photos, chance) * tries < CLEAR:
        return None
    return (
        f"the best of {tries} ways to prepare images labels {best.accuracy:.1%} of {best.photos} photos rightly, and "
        f"{chance:.1%} is chance: the classes or the preprocessing are others; give --classes FILE, or {FLAGS}"
    )


def _in_other_order(best: Tried, tried: Sequence[Tried]) -> str | None:
    """Why the classes are in another order than was said: then some answers would be right far more often."""
    enough = [one for one in tried if one.photos >= REORDERED_PHOTOS * len({*one.targets.values()})]
    found = max(enough, key=lambda one: one.reordered_accuracy, default=best)
    least, more = REORDERED
    if not enough or found.reordered_accuracy < max(least, best.accuracy + more):
        return None
    return (
        f"the classifier's classes are in another order: at best it labels {best.accuracy:.1%} of the photos rightly, "
        f"and in an order that suits its answers {found.reordered_accuracy:.1%} ({found.values.name}); give --classes "
        "FILE with their names in its order"
    )


def _chance_of(best: Tried, other: Tried) -> float:
    """How probable it is that `other` is no worse, on photos that both saw.

    The smaller of two paired tests, doubled: McNemar's exact one of right labels, and a one-sided z-test of `logs`,
    which counts only where the labels do not speak against it.
    """
    both = best.right.keys() & other.right.keys()
    won = sum(best.right[place] and not other.right[place] for place in both)
    lost = sum(other.right[place] and not best.right[place] for place in both)
    by_labels = float(binom.sf(won - 1, won + lost, 0.5)) if won + lost else 1.0
    gains = np.array([best.logs[place] - other.logs[place] for place in both])
    spread = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    by_logs = 0.5 * math.erfc(gains.mean() / spread / math.sqrt(2)) if spread > 0 and won >= lost else 1.0
    return min(1.0, 2 * min(by_labels, by_logs))


def _clear(
    best: Tried, others: Sequence[Tried], usual: Sequence[Convention], notes: list[str]
) -> tuple[Tried, str | None]:
    """The values to take: the best, or a more usual one that gives the same probabilities; or why none is clear."""
    same = [other for other in others if _distance(best, other) < SAME]
    left = [one for one in _rivals((best, *others)) if one not in same]
    left = [one for one in left if not any(_is_louder(one, other) for other in left)]
    if len(left) > 1:
        first, second = left[:2]
        return best, (
            f"{first.values.name} labels {first.accuracy:.1%} of {first.photos} photos rightly and "
            f"{second.values.name} {second.accuracy:.1%}, too close to tell which the classifier was trained with; "
            f"give {FLAGS}"
        )
    if left[0] is not best:
        notes.append(f"{best.values.name} labels photos as {left[0].values.name} does, but leaves no doubt of any")
        return left[0], None
    found = min((best, *same), key=lambda one: usual.index(one.values))
    if same:
        names = ", ".join(one.values.name for one in (best, *same) if one is not found)
        notes.append(f"{found.values.name} and {names} give the same probabilities; the first is taken")
    return found, None


def _is_louder(one: Tried, other: Tried) -> bool:
    """Whether the numbers of `one` span many times the other's, and leave the classifier without doubt.

    Convolutions and ReLU answer to a multiple of their input by a multiple of their output, so the labels may stay.
    """
    return one.span > LOUD * other.span and one.is_saturated


def _distance(one: Tried, other: Tried) -> float:
    """The largest difference of a probability on any photo that both saw."""
    both = one.shares.keys() & other.shares.keys()
    return max((float(np.abs(np.exp(one.shares[i]) - np.exp(other.shares[i])).max()) for i in both), default=1.0)


def _usual(fits: Sequence[Tried], usual: Sequence[Convention], notes: list[str]) -> Tried:
    """The best fit, or the most usual of those that cannot be told from it."""
    best = max(fits, key=_rank)
    equal = [one for one in fits if one is best or _chance_of(best, one) > CLEAR]
    found = min(equal, key=lambda one: usual.index(one.fit))
    if len(equal) > 1:
        figures = ", ".join(f"{one.fit.name} {one.accuracy:.1%}" for one in sorted(equal, key=_rank, reverse=True))
        notes.append(
            f"the photos do not tell apart: {figures}; {found.fit.name} is the most usual, give --fit for another"
        )
    return found
