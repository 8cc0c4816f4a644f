"""The photos that a guard is put around a classifier with, by the folders they lie in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.photo_folders import Part
from oodguard.core.text import visible
from oodguard.training.photos.labelled import (
    Photos,
    labelled,
    open_photos,
    part_classes,
    require_distinct,
    unlabelled,
)
from oodguard.training.photos.sources import listed_photos
from oodguard.training.progress import Reporter
from oodguard.wrapping.options import WrapOptions


def find_photos(options: WrapOptions, report: Reporter) -> Photos:
    """The photos of `--data` and `--unseen`, labelled with the names of their folders.

    What lies in val/ or in `unseen` is `held`, unless it is among the training photos too. Raises `InputError` where
    there are none.
    """
    found = _parts(options.data, options)
    pool, held, passed = found.pool, found.held, found.passed
    if options.unseen is not None:
        other = _parts(options.unseen, options)
        held = (*other.pool, *other.held, *other.test)
        passed += other.passed
    elif options.all_unseen:
        pool, held = pool + held, ()
    if options.labels == "photos":
        require_distinct(
            {str(options.data): part_classes((*pool, *found.test)), str(options.unseen or "val"): part_classes(held)}
        )
    known = {photo.sha256 for photo in pool}
    new = tuple(photo for photo in held if photo.sha256 not in known)
    if len(new) < len(held):
        where = "val/" if options.unseen is None else "--unseen"
        report.note(f"{len(held) - len(new)} of {len(held)} photos of {where} are training photos too: left out there")
    return replace(found, pool=pool, held=new, passed=passed)


def _parts(source: Path, options: WrapOptions) -> Photos:
    """The photos of a source, those of val as `held`. Raises `InputError` where none trains."""
    listed = listed_photos(source, options.cache, options.folder_rules.columns)
    if listed is not None:
        return listed
    opened = open_photos(source, options.cache, options.folder_rules)
    reader = opened.reader
    if options.labels == "photos":
        layout = reader.layout(opened.tree)
        train, val, test = (labelled(layout.parts.get(part, {})) for part in Part)
    else:
        tree = reader.opened(opened.tree)
        splits = reader.splits(tree, labelled=False) or {Part.TRAIN: tree}
        train, val, test = (unlabelled(splits[part]) if part in splits else () for part in Part)
    if not train:
        raise InputError(
            f"{visible(str(source))} has no images in class folders; give --labels model for photos without labels"
        )
    return Photos(pool=train, held=val, test=test, root=opened.root, passed=opened.passed((*train, *val, *test)))
