"""The photos that a guard is put around a classifier with, by the folders they lie in."""

from __future__ import annotations

from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.training.photos.labelled import Photo, Photos, class_folders, load_unlabelled, photo_folder
from oodguard.training.progress import Reporter
from oodguard.wrapping.options import WrapOptions


def find_photos(options: WrapOptions, report: Reporter) -> Photos:
    """The photos of `--data` and `--unseen`, labelled with the names of their folders.

    What lies in val/ or in `unseen` is `held`, unless it is among the training photos too. Raises `InputError` where
    there are none.
    """
    root = photo_folder(options.data, options.cache)
    split = (root / "train").is_dir()
    pool = _photos(root / "train" if split else root, options)
    held, test = (_found(root / part, options) if split else () for part in ("val", "test"))
    if options.unseen is not None:
        held = _photos(photo_folder(options.unseen, options.cache), options)
    elif options.all_unseen:
        pool, held = pool + held, ()
    known = {photo.sha256 for photo in pool}
    new = tuple(photo for photo in held if photo.sha256 not in known)
    if len(new) < len(held):
        where = "val/" if options.unseen is None else "--unseen"
        report.note(f"{len(held) - len(new)} of {len(held)} photos of {where} are training photos too: left out there")
    return Photos(pool=pool, test=test, held=new)


def _found(folder: Path, options: WrapOptions) -> tuple[Photo, ...]:
    """The images of a folder that may be missing, or empty."""
    if not folder.is_dir():
        return ()
    if options.labels == "photos":
        return class_folders(folder)
    return load_unlabelled(folder) if any(path.is_file() for path in folder.rglob("*")) else ()


def _photos(folder: Path, options: WrapOptions) -> tuple[Photo, ...]:
    found = load_unlabelled(folder) if options.labels == "model" else class_folders(folder)
    if not found:
        raise InputError(f"{folder} has no images in class folders; give --labels model for photos without labels")
    return found
