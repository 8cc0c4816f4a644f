"""The record of a comparison of two guards: every number that its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from oodguard.evaluation.paired import Groups, Hits, PairedShare
from oodguard.pages.text import percent, signed
from oodguard.training.metrics import Share, share
from oodguard.training.photos.labelled import Photo

JSON_FILE = "comparison.json"
HTML_FILE = "comparison.html"
TEST = "test photos"
UNSEEN = "classes that neither knows"
TRAFFIC = "traffic"
RESERVED = (TEST, UNSEEN, TRAFFIC)
# Photos that a page shows; the record has all of them.
SHOWN = 48


class ComparedGuard(BaseModel):
    """Which guard it is. sha256: of its manifest.json or run.json. megabytes: of the graph; None of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bundle", "run"]
    folder: str
    name: str
    version: str
    sha256: str
    precision: str
    accept: float
    threshold: float
    megabytes: float | None


@dataclass(frozen=True)
class JudgedSet:
    """What one guard says of N photos: labels and their probabilities, fused scores, and whether each is flagged."""

    labels: tuple[str, ...]
    chances: npt.NDArray[np.float64]
    fused: npt.NDArray[np.float64]
    flags: Hits

    def rows(self, chosen: Hits) -> JudgedSet:
        """Some of the photos."""
        return JudgedSet(
            labels=tuple(label for label, keep in zip(self.labels, chosen, strict=True) if keep),
            chances=self.chances[chosen],
            fused=self.fused[chosen],
            flags=self.flags[chosen],
        )

    def right(self, photos: Sequence[Photo]) -> Hits:
        """Whether each label is that of its photo."""
        return np.array(
            [label == photo.label for label, photo in zip(self.labels, photos, strict=True)], dtype=np.bool_
        )


@dataclass(frozen=True)
class ComparedSet:
    """N photos, judged by both guards; groups: near-duplicates."""

    photos: tuple[Photo, ...]
    before: JudgedSet
    after: JudgedSet
    groups: Groups

    def rows(self, chosen: Hits) -> ComparedSet:
        """Some of the photos."""
        return ComparedSet(
            photos=tuple(photo for photo, keep in zip(self.photos, chosen, strict=True) if keep),
            before=self.before.rows(chosen),
            after=self.after.rows(chosen),
            groups=self.groups[chosen],
        )

    def __len__(self) -> int:
        return len(self.photos)


class ChangedPhoto(BaseModel):
    """A photo of which the new guard says something else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    path: str
    true: str | None
    old_label: str
    new_label: str
    old_probability: float
    new_probability: float
    old_flagged: bool
    new_flagged: bool

    @property
    def gain(self) -> int:
        """1 where the new label is right and the old one was not, -1 the other way round, else 0."""
        return int(self.new_label == self.true) - int(self.old_label == self.true)


class ChangedShare(BaseModel):
    """How many images of a set get another label, and how many another flag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Share
    verdicts: Share


class Compared(BaseModel):
    """Everything that `oodguard compare` found.

    accuracy, acceptance: of the test photos of classes that both know. added, removed: right labels of the photos of
    classes that only the new, or only the old guard knows. let_in: by OOD set. changed: by set. groups: photos, with
    near-duplicates counted once; None: each counted for itself, for the reason in `ungrouped`. unreadable: photos left
    out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: str
    old: ComparedGuard
    new: ComparedGuard
    accuracy: PairedShare | None
    acceptance: PairedShare | None
    added: PairedShare | None
    removed: PairedShare | None
    let_in: dict[str, PairedShare]
    changed: dict[str, ChangedShare]
    photos: tuple[ChangedPhoto, ...]
    groups: int | None
    ungrouped: str
    unreadable: tuple[str, ...]
    sentence: str


def compared(
    old: ComparedGuard,
    new: ComparedGuard,
    *,
    classes: tuple[frozenset[str], frozenset[str]],
    sets: Mapping[str, ComparedSet],
    created: str,
    ungrouped: str,
    unreadable: Sequence[str],
) -> Compared:
    """Every number of a comparison. classes: of the old and of the new guard. sets: by name, `TEST` among them."""
    test = sets[TEST]
    labels = [photo.label for photo in test.photos]
    knows = [np.array([label in known for label in labels], dtype=np.bool_) for known in classes]
    both = test.rows(knows[0] & knows[1])
    unseen = test.rows(~knows[0] & ~knows[1])
    outside = {name: found for name, found in sets.items() if name not in RESERVED}
    if len(unseen):
        outside = {UNSEEN: unseen, **outside}
    shown = {**({TEST: both} if len(both) else {}), **outside, **{k: v for k, v in sets.items() if k == TRAFFIC}}
    accuracy, acceptance = _right(both), _passes(both)
    let_in = {
        name: PairedShare.of(~found.before.flags, ~found.after.flags, found.groups) for name, found in outside.items()
    }
    changed = {name: _changed(found) for name, found in shown.items()}
    every = np.concatenate([found.groups for found in sets.values()])
    return Compared(
        created=created,
        old=old,
        new=new,
        accuracy=accuracy,
        acceptance=acceptance,
        added=_right(test.rows(~knows[0] & knows[1])),
        removed=_right(test.rows(knows[0] & ~knows[1])),
        let_in=let_in,
        changed=changed,
        photos=tuple(photo for name, found in shown.items() for photo in _changed_photos(name, found)),
        groups=None if ungrouped else len(np.unique(every)),
        ungrouped=ungrouped,
        unreadable=tuple(unreadable),
        sentence=_sentence(old, new, accuracy, acceptance, let_in, changed),
    )


def _right(found: ComparedSet) -> PairedShare | None:
    if not len(found):
        return None
    return PairedShare.of(found.before.right(found.photos), found.after.right(found.photos), found.groups)


def _passes(found: ComparedSet) -> PairedShare | None:
    return PairedShare.of(~found.before.flags, ~found.after.flags, found.groups) if len(found) else None


def _other_labels(found: ComparedSet) -> Hits:
    return np.array([a != b for a, b in zip(found.before.labels, found.after.labels, strict=True)], dtype=np.bool_)


def _changed(found: ComparedSet) -> ChangedShare:
    return ChangedShare(labels=share(_other_labels(found)), verdicts=share(found.before.flags != found.after.flags))


def _changed_photos(name: str, found: ComparedSet) -> list[ChangedPhoto]:
    """The photos of a set that change; of test photos those with a wrong new label first, then the surest ones."""
    moved = _other_labels(found) | (found.before.flags != found.after.flags)
    photos = [
        ChangedPhoto(
            set=name,
            path=str(found.photos[row].path),
            true=found.photos[row].label if name == TEST else None,
            old_label=found.before.labels[row],
            new_label=found.after.labels[row],
            old_probability=float(found.before.chances[row]),
            new_probability=float(found.after.chances[row]),
            old_flagged=bool(found.before.flags[row]),
            new_flagged=bool(found.after.flags[row]),
        )
        for row in np.flatnonzero(moved).tolist()
    ]
    return sorted(photos, key=lambda photo: (photo.gain, -photo.new_probability, Path(photo.path).as_posix()))


def _sentence(
    old: ComparedGuard,
    new: ComparedGuard,
    accuracy: PairedShare | None,
    acceptance: PairedShare | None,
    let_in: Mapping[str, PairedShare],
    changed: Mapping[str, ChangedShare],
) -> str:
    """The verdict: `2 is better by 1.7 points, not significant; lets in 1.0 -> 0.0 % of packages; ...`."""
    called = (new.version, old.version)
    if new.version == old.version:
        called = (f"{new.name} {new.version} in {new.folder}", f"{old.name} {old.version} in {old.folder}")
    parts = []
    if accuracy is None:
        parts.append(f"{called[0]} and {called[1]} share no class that the test photos show")
    else:
        parts.append(f"{called[0]} {_accuracy_words(accuracy, called[1])}")
    if acceptance is not None:
        parts.append(f"accepts {arrow(acceptance)} of known photos{_unless_significant(acceptance)}")
    parts += [f"lets in {arrow(found)} of {name}{_unless_significant(found)}" for name, found in let_in.items()]
    if TEST in changed:
        both = changed[TEST]
        parts.append(f"{percent(both.labels.share)} of labels and {percent(both.verdicts.share)} of verdicts change")
    return "; ".join(parts)


def _accuracy_words(found: PairedShare, other: str) -> str:
    points = abs(100 * found.change.change)
    if points < 0.05:
        return f"is as accurate as {other}"
    better = "better" if found.change.change > 0 else "worse"
    sure = "" if found.change.significant else ", not significant"
    return f"is {better} than {other} by {points:.1f} points{sure}"


def _unless_significant(found: PairedShare) -> str:
    return "" if found.change.significant or not found.change.change else " (not significant)"


def arrow(found: PairedShare) -> str:
    """A share before and after: `1.0 -> 0.0 %`."""
    return f"{100 * found.before.share:.1f} -> {percent(found.after.share)}"


def change_points(found: PairedShare) -> str:
    """The change in points with its interval."""
    change = found.change
    low, high = (signed(100 * bound, 1) for bound in (change.low, change.high))
    return f"{signed(100 * change.change, 1)} ({low} to {high})"
