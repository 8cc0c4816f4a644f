"""`check`: what is wrong with a folder of labelled photos, before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oodguard.core.errors import InputError
from oodguard.core.grey_levels import GreyLevels, few_grey_levels
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor
from oodguard.training.backbone.sources import backbone_of
from oodguard.training.backbone.tail import tail_features
from oodguard.training.compute import cpu_threads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.copies import SAME_FILE, CopyGroup, copy_groups
from oodguard.training.photos.division import Labels, label_numbers
from oodguard.training.photos.kinds import Kind
from oodguard.training.photos.label_suspects import SUSPECT, LabelOpinion, label_opinion
from oodguard.training.photos.labelled import MIN_PER_CLASS, Photo, Photos, find_photos
from oodguard.training.photos.minimum import Minimum
from oodguard.training.photos.oddities import oddities
from oodguard.training.photos.photo import PassedOver
from oodguard.training.photos.pictures import Looked, look
from oodguard.training.photos.suspects import Suspect
from oodguard.training.progress import Reporter, Silent

# Of two classes of one picture, the less likely one is suspect where it is so many times less likely.
CLEARLY = 4.0


@dataclass(frozen=True)
class PhotoCheck:
    """What a check found. suspects: in the order of the list. beside: a photo to look at beside a
    suspect, by its path and kind.

    counts: readable photos of each class. passed: files that training passes over. asked_labels: whether labels were
    compared with what classifiers say. shortage: why the photos are too few to train on; empty: they are not.
    grey_levels: of all photos together, where they are too few for photos.
    """

    photos: Photos
    counts: Mapping[str, int]
    suspects: tuple[Suspect, ...]
    passed: tuple[PassedOver, ...]
    beside: Mapping[tuple[str, Kind], Photo]
    asked_labels: bool
    shortage: str = ""
    grey_levels: GreyLevels | None = None

    def of(self, *kinds: Kind) -> tuple[Suspect, ...]:
        """The suspects of these kinds."""
        return tuple(one for one in self.suspects if one.kind in kinds)

    def waiting(self, *kinds: Kind) -> tuple[Suspect, ...]:
        """The suspects of these kinds that nobody keeps."""
        return tuple(one for one in self.of(*kinds) if not one.keep)

    @property
    def imbalance(self) -> float:
        """How many times more photos the largest class has than the smallest."""
        return max(self.counts.values()) / max(min(self.counts.values()), 1)

    @property
    def small(self) -> tuple[str, ...]:
        """Classes with too few photos to train on."""
        return tuple(label for label, count in sorted(self.counts.items()) if count < MIN_PER_CLASS)


def check_photos(options: TrainOptions, *, report: Reporter | None = None) -> PhotoCheck:
    """Check the photos that training with these options would read.

    ```python
    found = check_photos(TrainOptions(data=Path("photos")))
    print([one.path for one in found.of(Kind.LABEL)])
    ```

    Raises `InputError` where there are not two classes with photos.
    """
    with cpu_threads(options.threads):
        return _check(options, report or Silent())


def _check(options: TrainOptions, report: Reporter) -> PhotoCheck:
    photos = find_photos(options.data, options.cache, options.folder_rules)
    everything = (*photos.pool, *photos.test)
    looked = look(
        everything,
        options.cache,
        threads=options.threads,
        progress=lambda done, total: report.progress("looking at photos", done, total),
    )
    if not looked.photos:
        raise InputError(
            f"none of the {len(everything)} photos in {options.data} can be read; check where they are from"
        )
    labels = label_numbers(looked.photos, photos.classes)
    groups = copy_groups(
        looked.photos, looked.pictures.copies, looked.pictures.colours, order=_order(photos, looked.photos, labels)
    )
    opinion = _opinion(looked, labels, groups, options, report)
    finder = _Finder(photos, looked, labels, opinion)
    across = [group for group in groups if len(set(labels[list(group.rows)])) > 1]
    suspects = [
        *finder.labels(across),
        *finder.across(across),
        *finder.copies([group for group in groups if group not in across]),
        *(finder.unreadable()),
        *_passed(photos.passed),
        *finder.odd(),
    ]
    return PhotoCheck(
        photos=photos,
        counts={label: int((labels == number).sum()) for number, label in enumerate(photos.classes)},
        suspects=ranked(suspects),
        passed=photos.passed,
        beside=finder.beside,
        asked_labels=opinion is not None,
        shortage=Minimum(options, tested=bool(photos.test)).shortage(len({*looked.photos} & {*photos.pool})),
        grey_levels=few_grey_levels((photo.path.read_bytes() for photo in looked.photos), TRAINING_LIMITS),
    )


def ranked(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Suspects in the order of their kinds, each numbered within its kind as it comes."""
    kinds = list(Kind)
    seen: Counter[Kind] = Counter()
    found = []
    for one in sorted(suspects, key=lambda one: kinds.index(one.kind)):
        seen[one.kind] += 1
        found.append(replace(one, rank=seen[one.kind]))
    return tuple(found)


def _order(photos: Photos, readable: Sequence[Photo], labels: Labels) -> list[int]:
    """Which photo of several copies is kept: one of the test folder, then the one with the shortest name."""
    test = set(photos.test)
    keys = [(photo not in test, len(photo.path.name), photos.name(photo)) for photo in readable]
    places = {row: place for place, row in enumerate(sorted(range(len(keys)), key=keys.__getitem__))}
    return [places[row] for row in range(len(keys))]


def _opinion(
    looked: Looked, labels: Labels, groups: Sequence[CopyGroup], options: TrainOptions, report: Reporter
) -> LabelOpinion | None:
    backbone = backbone_of(options)
    extractor = Extractor(backbone, cache=options.cache, threads=options.threads)
    good = extractor.readable(looked.photos, lambda done, total: report.progress("features of photos", done, total))
    assert good == looked.photos
    features = tail_features(backbone.tail, extractor.extract(looked.photos)[0])
    numbers = np.arange(len(labels))
    for group in groups:
        numbers[list(group.rows)] = group.kept
    return label_opinion(features.numpy(), labels, numbers, seed=options.seed)


@dataclass
class _Finder:
    """Suspects from what was measured."""

    photos: Photos
    looked: Looked
    labels_of: Labels
    opinion: LabelOpinion | None

    def __post_init__(self) -> None:
        self.beside: dict[tuple[str, Kind], Photo] = {}

    def labels(self, across: Sequence[CopyGroup]) -> list[Suspect]:
        """Labels that look wrong: first those of one picture in two classes, then what classifiers disagree with."""
        found: dict[int, Suspect] = {}
        for group in across:
            for row, better in self._doubtful(group).items():
                kept = next(r for r in group.rows if self.labels_of[r] == better)
                suggested = self.photos.classes[better]
                found[row] = self._suspect(
                    row, Kind.LABEL, f"the same picture as {self._name(kept)}", beside=kept,
                    suggested=suggested, score=self._score(row, better),
                )  # fmt: skip
        first = sorted(found, key=lambda row: -found[row].score)
        rest: list[Suspect] = []
        if self.opinion is not None:
            taken = self.opinion.taken_for
            scores = self.opinion.scores
            twins = {row for group in across for row in group.rows}
            for row in self.opinion.suspects:
                if int(row) in found or (int(row) in twins and found):
                    continue
                suggested = self.photos.classes[taken[row]]
                rest.append(
                    self._suspect(
                        int(row), Kind.LABEL, f"looks like {suggested}", beside=int(self.opinion.nearest[row]),
                        suggested=suggested, score=float(scores[row]),
                    )
                )  # fmt: skip
        return [*(found[row] for row in first), *rest]

    def across(self, groups: Sequence[CopyGroup]) -> list[Suspect]:
        """Copies in several classes: those in doubt, or all of a group where it is not clear which."""
        found = []
        for group in groups:
            doubtful = self._doubtful(group)
            for row in group.rows:
                others = [r for r in group.rows if self.labels_of[r] != self.labels_of[row]]
                if row in doubtful or not self._is_clear(group):
                    how, likeness = self._how(group, row)
                    found.append(
                        self._suspect(
                            row, Kind.COPY_ACROSS, how.format(self._name(others[0])), beside=others[0],
                            suggested=self.photos.classes[doubtful[row]] if row in doubtful else "", score=likeness,
                        )
                    )  # fmt: skip
        return found

    def copies(self, groups: Sequence[CopyGroup]) -> list[Suspect]:
        """Copies within one class, all but the one that is kept."""
        found = []
        test = set(self.photos.test)
        for group in groups:
            for copy in group.copies:
                exact = self.looked.photos[copy.row].sha256 == self.looked.photos[group.kept].sha256
                kind = Kind.COPY if exact else Kind.NEAR_COPY
                how = SAME_FILE if exact else copy.how
                leak = (self.looked.photos[copy.row] in test) != (self.looked.photos[group.kept] in test)
                reason = how.format(self._name(group.kept)) + (", a test photo" if leak else "")
                found.append(self._suspect(copy.row, kind, reason, beside=group.kept, score=copy.likeness))
        return sorted(found, key=lambda one: -one.score)

    def unreadable(self) -> list[Suspect]:
        """Files that are no photos."""
        return [
            Suspect(path=self.photos.name(photo), label=photo.label, kind=Kind.UNREADABLE, reason=reason, rank=0)
            for photo, reason in sorted(self.looked.unreadable.items(), key=lambda item: self.photos.name(item[0]))
        ]

    def odd(self) -> list[Suspect]:
        """Photos that are odd among their set."""
        return [self._suspect(one.row, one.kind, one.reason, score=one.score) for one in oddities(self.looked.pictures)]

    def _doubtful(self, group: CopyGroup) -> dict[int, int]:
        """Rows of a group across classes whose class is not its most likely one, with that one."""
        classes = np.unique(self.labels_of[list(group.rows)])
        chances = np.array([self._chance(group, int(c)) for c in classes])
        best = int(classes[chances.argmax()])
        return {row: best for row in group.rows if self.labels_of[row] != best}

    def _is_clear(self, group: CopyGroup) -> bool:
        classes = np.unique(self.labels_of[list(group.rows)])
        chances = sorted((self._chance(group, int(c)) for c in classes), reverse=True)
        return chances[0] > CLEARLY * chances[1]

    def _chance(self, group: CopyGroup, label: int) -> float:
        if self.opinion is None:
            return 1.0
        return float(self.opinion.probabilities[list(group.rows), label].mean())

    def _score(self, row: int, better: int) -> float:
        if self.opinion is None:
            return SUSPECT
        own, other = self.opinion.probabilities[row, [self.labels_of[row], better]]
        return float(other / max(other + own, 1e-12))

    def _how(self, group: CopyGroup, row: int) -> tuple[str, float]:
        link = next((copy for copy in group.copies if copy.row == row), group.copies[0])
        return link.how, link.likeness

    def _name(self, row: int) -> str:
        return self.photos.name(self.looked.photos[row])

    def _suspect(
        self, row: int, kind: Kind, reason: str, *, beside: int | None = None, suggested: str = "", score: float = 1.0
    ) -> Suspect:
        path = self._name(row)
        if beside is not None:
            self.beside[path, kind] = self.looked.photos[beside]
        return Suspect(
            path=path,
            label=self.looked.photos[row].label,
            kind=kind,
            reason=reason,
            suggested=suggested,
            score=score,
            rank=0,
        )


def _passed(files: Sequence[PassedOver]) -> list[Suspect]:
    return [
        Suspect(path=file.name, label="", kind=Kind.PASSED_OVER, reason=file.reason, score=float(file.image), rank=0)
        for file in files
    ]
