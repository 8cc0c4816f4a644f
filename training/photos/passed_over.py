"""Files among the photos that training does not read: where they lie, or what they are, keeps them out."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.text import visible
from oodguard.training.photos.photo import PassedOver, Photos
from oodguard.training.photos.tree import PhotoTree


def passed_over(
    tree: PhotoTree,
    taken: Collection[Path],
    elsewhere: tuple[PassedOver, ...] = (),
    *,
    ignored: Collection[str] = (),
) -> tuple[PassedOver, ...]:
    """Every file of a data folder that is not `taken`, photos first; what systems leave in folders is left out.

    elsewhere: members of an archive that were not unpacked. ignored: folders that were left out on demand.
    """
    found = (*_photos(tree, taken, ignored), *(other for one in tree.walk() for other in one.others), *elsewhere)
    return tuple(sorted(found, key=lambda file: (not file.image, file.name)))


def _photos(tree: PhotoTree, taken: Collection[Path], ignored: Collection[str]) -> Iterator[PassedOver]:
    kept = {path for one in tree.without(ignored).walk() for path in one.photos}
    # A link may lead to a file that is taken under another name.
    real = {os.path.realpath(path) for path in taken} if any(one.linked for one in tree.walk()) else set()
    for one in tree.walk():
        for path in one.photos:
            if path in taken or (real and os.path.realpath(path) in real):
                continue
            name = f"{one.name}/{path.name}" if one.name else path.name
            if path in kept:
                yield PassedOver(name, "in no class folder; move it into the folder of its class", image=True)
            else:
                yield PassedOver(name, "in a folder that --ignore-folder leaves out", image=True)


def require_all_read(photos: Photos) -> None:
    """Raise `InputError` where photos in class folders are of kinds that are not read."""
    bad = [file for file in photos.passed if file.unreadable]
    if bad:
        raise InputError(
            f"{len(bad):,} of {len(photos.pool) + len(photos.test) + len(bad):,} photos cannot be read; the first: "
            f"{visible(bad[0].name)} ({bad[0].reason})"
        )
