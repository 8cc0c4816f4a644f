"""How labelled photos lie in folders: classes, perhaps under splits, perhaps in one folder that wraps all of it."""

from __future__ import annotations

from pathlib import Path

from oodguard.core.formats import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
# Left by the archives of one operating system.
LITTER = "__MACOSX"


def unwrapped(folder: Path) -> Path:
    """The folder that holds the splits or the classes: stepped into a single wrapping folder, as zips have."""
    while True:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", LITTER))]
        wraps = len(entries) == 1 and entries[0].is_dir() and entries[0].name not in SPLITS
        if not wraps or _holds_images(entries[0]):
            return folder
        folder = entries[0]


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
