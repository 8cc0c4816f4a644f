"""Exact copies that make figures false: photos trained on that are in test/ as well, and photos with two labels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

from oodguard.core.errors import InputError
from oodguard.core.text import visible
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.record import Duplicates

OnDuplicate = Literal["report", "drop", "refuse"]
# Names that a run keeps.
NAMED = 20


@dataclass(frozen=True)
class _Copies:
    """leaked: files to learn from or to calibrate with that are test photos, each with that one. contested: the files
    of each photo that has several labels.
    """

    leaked: tuple[tuple[Photo, Photo], ...]
    contested: tuple[tuple[Photo, ...], ...]


def settle(photos: Photos, action: OnDuplicate) -> Photos:
    """The photos with what was found among them (`Photos.duplicates`); `drop`: without what makes figures false.

    A photo that is in test/ and elsewhere stays in test/ alone. Nobody knows which of two labels is right, so a photo
    that has two is left out everywhere. Raises `InputError` for `refuse`, and where a class would be left without
    photos.
    """
    found = _copies(photos)
    if not found.leaked and not found.contested:
        return photos
    record = Duplicates(
        action="drop" if action == "drop" else "report",
        leaked=len(found.leaked),
        contested=len(found.contested),
        contested_files=sum(map(len, found.contested)),
        first_leaked=tuple((photos.name(one), photos.name(other)) for one, other in found.leaked[:NAMED]),
        first_contested=tuple(
            tuple((photos.name(one), one.label) for one in files[:NAMED]) for files in found.contested[:NAMED]
        ),
    )
    if action == "refuse":
        raise InputError(f"{_found(record)}; remove them, or give --on-duplicate drop or report")
    if action == "report":
        return replace(photos, duplicates=record)
    contested = {one for files in found.contested for one in files}
    gone = contested.union(one for one, _ in found.leaked)
    left = replace(
        photos,
        pool=tuple(photo for photo in photos.pool if photo not in gone),
        held=tuple(photo for photo in photos.held if photo not in gone),
        test=tuple(photo for photo in photos.test if photo not in contested),
        duplicates=record,
    )
    if empty := sorted(set(photos.classes) - set(left.classes)):
        raise InputError(
            f"{_found(record)}; without them {visible(empty[0])} has no photo to learn from, so remove those that are "
            "wrong, or give --on-duplicate report"
        )
    return left


def _copies(photos: Photos) -> _Copies:
    files: defaultdict[str, dict[Photo, None]] = defaultdict(dict)
    for photo in (*photos.test, *photos.pool, *photos.held):
        files[photo.sha256][photo] = None
    contested = {sha256: tuple(same) for sha256, same in files.items() if len({one.label for one in same}) > 1}
    test: dict[str, Photo] = {}
    for photo in photos.test:
        test.setdefault(photo.sha256, photo)
    return _Copies(
        leaked=tuple(
            (photo, test[photo.sha256])
            for photo in (*photos.pool, *photos.held)
            if photo.sha256 in test and photo.sha256 not in contested
        ),
        contested=tuple(contested.values()),
    )


def duplicate_lines(found: Duplicates) -> tuple[str, ...]:
    """What a run has to say of them, one line each, with what was done."""
    dropped = found.action == "drop"
    lines = []
    if found.leaked:
        done = (
            "they were left out of training (--on-duplicate drop)"
            if dropped
            else "accuracy on test photos is too high by that; give --on-duplicate drop"
        )
        lines.append(f"leaks: {_leaks(found)}: {done}")
    if found.contested:
        done = (
            f"none of their {found.contested_files:,} files was used (--on-duplicate drop)"
            if dropped
            else "all of them were used; give --on-duplicate drop"
        )
        lines.append(f"two labels: {_contested(found)}: {done}")
    return tuple(lines)


def _found(found: Duplicates) -> str:
    parts = [part(found) for part, count in ((_leaks, found.leaked), (_contested, found.contested)) if count]
    return ", and ".join(parts)


def _leaks(found: Duplicates) -> str:
    one, other = map(visible, found.first_leaked[0])
    verb = "photo to learn from is" if found.leaked == 1 else "photos to learn from are"
    return f"{found.leaked:,} {verb} among the test photos, too ({one} is {other})"


def _contested(found: Duplicates) -> str:
    verb = "photo has" if found.contested == 1 else "photos have"
    named = ", ".join(f"{visible(name)} as {visible(label)}" for name, label in found.first_contested[0])
    return f"{found.contested:,} {verb} several labels ({named})"
