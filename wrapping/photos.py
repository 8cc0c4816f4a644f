"""The photos that a guard is put around a classifier with, by the folders they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.photo_folders import Part
from oodguard.core.text import visible
from oodguard.training.photos.labelled import (
    Photo,
    Photos,
    PhotoSource,
    labelled,
    open_photos,
    part_classes,
    require_distinct,
    unlabelled,
)
from oodguard.training.progress import Reporter
from oodguard.wrapping.options import WrapOptions


def find_photos(options: WrapOptions, report: Reporter) -> Photos:
    """The photos of `--data` and `--unseen`, labelled with the names of their folders.

    What lies in val/ or in `unseen` is `held`, unless it is among the training photos too. Raises `InputError` where
    there are none.
    """
    opened, parts = _parts(options.data, options)
    pool, held, test = parts[Part.TRAIN], parts[Part.VAL], parts[Part.TEST]
    passed = opened.passed((*pool, *held, *test))
    if options.unseen is not None:
        other, found = _parts(options.unseen, options)
        held = tuple(photo for part in Part for photo in found[part])
        passed += other.passed(held)
    elif options.all_unseen:
        pool, held = pool + held, ()
    if options.labels == "photos":
        require_distinct(
            {str(options.data): part_classes((*pool, *test)), str(options.unseen or "val"): part_classes(held)}
        )
    known = {photo.sha256 for photo in pool}
    new = tuple(photo for photo in held if photo.sha256 not in known)
    if len(new) < len(held):
        where = "val/" if options.unseen is None else "--unseen"
        report.note(f"{len(held) - len(new)} of {len(held)} photos of {where} are training photos too: left out there")
    return Photos(pool=pool, test=test, held=new, root=opened.root, passed=passed)


def _parts(source: Path, options: WrapOptions) -> tuple[PhotoSource, Mapping[Part, tuple[Photo, ...]]]:
    """The photos of each part of a data folder. Raises `InputError` where none trains."""
    opened = open_photos(source, options.cache, options.folder_rules)
    reader = opened.reader
    if options.labels == "photos":
        layout = reader.layout(opened.tree)
        parts = {part: labelled(layout.parts.get(part, {})) for part in Part}
    else:
        tree = reader.opened(opened.tree)
        splits = reader.splits(tree, labelled=False) or {Part.TRAIN: tree}
        parts = {part: unlabelled(splits[part]) if part in splits else () for part in Part}
    if not parts[Part.TRAIN]:
        raise InputError(
            f"{visible(str(source))} has no images in class folders; give --labels model for photos without labels"
        )
    return opened, parts
