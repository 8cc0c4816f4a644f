"""One session of marking: the pictures, their groups and marks, as the page asks for them and changes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from oodguard.core.bank import NEAREST
from oodguard.core.errors import InputError
from oodguard.core.explanation import Neighbour
from oodguard.core.frozen import Frozen
from oodguard.core.scores import REGISTRY
from oodguard.core.thumbnails import Thumbnails
from oodguard.review.class_names import require_new
from oodguard.review.look_alikes import LookAlikes
from oodguard.review.mark_book import MarkBook
from oodguard.review.marks import Mark, MarkKind
from oodguard.review.measures import Level
from oodguard.review.pictures import FlaggedPicture, FlaggedPictures

MAX_MARKED = 100_000


class AskedMark(Frozen):
    """What the page asks for: one mark for some pictures. mark: empty to take theirs. group: the one they stand in."""

    pictures: tuple[int, ...] = Field(min_length=1, max_length=MAX_MARKED)
    mark: str = ""
    label: str = Field("", max_length=1000)
    group: int | None = None


class AskedLevel(Frozen):
    """How alike the pictures of a group shall be."""

    level: Level


class ReviewSession:
    """What the routes of the page do.

    classes: those that the model knows. thumbnails: the small copies of training photos, where a bundle has some.
    """

    def __init__(
        self,
        pictures: FlaggedPictures,
        book: MarkBook,
        alike: LookAlikes,
        *,
        classes: Iterable[str] = (),
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self.pictures = pictures
        self._book = book
        self._alike = alike
        self._thumbnails = thumbnails
        named = {picture.sample.label for picture in pictures.items}
        named |= {one.label for picture in pictures.items for one in _explained(picture)}
        self.classes = tuple(classes) or tuple(sorted(named))
        self._numbers = {picture.name: picture.number for picture in pictures.items}

    @cached_property
    def overview(self) -> bytes:
        """What stays, as JSON: the pictures with their verdicts, the classes, what could not be read."""
        scores = {name for picture in self.pictures.items for name in picture.sample.scores}
        found = {
            "folder": self.pictures.folder.name or str(self.pictures.folder),
            "marks_file": str(self._book.path),
            "classes": self.classes,
            "scores": [{"name": name, "title": spec.title} for name, spec in REGISTRY.items() if name in scores],
            "pictures": [_shown(picture) for picture in self.pictures.items],
            "unreadable": [{"file": one.file, "why": one.why} for one in self.pictures.unreadable],
        }
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()

    def marks(self) -> dict[str, Any]:
        """All marks by number, the names of new classes, and how many decisions can be taken back."""
        rows = {self._numbers[path]: row for path, row in self._book.rows.items() if path in self._numbers}
        return {
            "marks": {number: {"kind": row.mark.kind, "label": row.mark.label} for number, row in rows.items()},
            "new": sorted({row.mark.label for row in self._book.rows.values() if row.mark.kind is MarkKind.NEW}),
            "steps": self._book.steps,
        }

    def decide(self, decision: AskedMark) -> dict[str, Any]:
        """Mark pictures. Raises `InputError` for a mark that cannot be, `EnvironmentProblem` where it is not kept."""
        if not all(0 <= number < len(self.pictures) for number in (*decision.pictures, decision.group or 0)):
            raise InputError("there is no such picture; load the page again")
        mark = self._mark(decision) if decision.mark else None
        group = "" if decision.group is None else self.pictures.items[decision.group].name
        self._book.decide(self.pictures.sha256s(decision.pictures), mark, group=group)
        return self.marks()

    def _mark(self, decision: AskedMark) -> Mark:
        mark = Mark.of(decision.mark, decision.label)
        if mark.kind is MarkKind.KNOWN and mark.label not in self.classes:
            raise InputError(f"the model has no class {mark.label}; mark these as a new class")
        if mark.kind is MarkKind.NEW:
            # One spelling of each name: the folders of "Lamp" and "lamp" are one on some disks and two on others.
            made = {row.mark.label for row in self._book.rows.values() if row.mark.kind is MarkKind.NEW}
            known = next((name for name in made if name.casefold() == mark.label.casefold()), None)
            return Mark(mark.kind, known or require_new(mark.label, self.classes))
        return mark

    def undo(self) -> dict[str, Any]:
        """Take the last decision back; also the numbers that it concerned. Raises as `MarkBook.undo` does."""
        changed = self._book.undo()
        return {**self.marks(), "changed": [self._numbers[path] for path in changed if path in self._numbers]}

    def groups(self) -> dict[str, Any]:
        """The groups of look-alikes so far."""
        found = self._alike.found
        return {
            "version": found.version,
            "level": found.level,
            "levels": list(Level),
            "measured": found.measured,
            "total": found.total,
            "finished": found.finished,
            "rule": found.rule,
            "problem": found.problem,
            "groups": found.groups,
        }

    def regroup(self, asked: AskedLevel) -> dict[str, Any]:
        """Group at another level."""
        self._alike.regroup(asked.level)
        return self.groups()

    def near(self, number: int) -> list[dict[str, Any]]:
        """The training photos nearest to a picture, with whether there is a small copy of each."""
        picture = self.pictures.items[number]
        found: Sequence[Neighbour] = _explained(picture) or self._alike.neighbours(number)
        return [
            {
                "label": one.label,
                "distance": round(one.distance, 4),
                "sha256": one.sha256 if self.photo(one.sha256) else None,
            }
            for one in found[:NEAREST]
        ]

    def photo(self, sha256: str) -> bytes | None:
        """The small copy of a training photo."""
        return None if self._thumbnails is None else self._thumbnails.read(sha256)


def _explained(picture: FlaggedPicture) -> tuple[Neighbour, ...]:
    return () if picture.sample.explanation is None else picture.sample.explanation.neighbours


def _shown(picture: FlaggedPicture) -> dict[str, Any]:
    sample = picture.sample
    explanation = sample.explanation
    scores: Mapping[str, float] = {name: round(score.percentile, 2) for name, score in sample.scores.items()}
    return {
        "file": picture.name,
        "label": sample.label,
        "probability": round(sample.probability, 4),
        "score": round(sample.ood_score, 4),
        "threshold": round(sample.threshold, 4),
        "margin": round(picture.margin, 4),
        "percentile": round(sample.percentile, 2),
        "scores": scores,
        "over": [name for name, score in sample.scores.items() if score.is_ood],
        "decided": None if explanation is None else explanation.decided_by,
        "time": sample.time.timestamp(),
        "model": f"{sample.model.name} {sample.model.version}",
    }
