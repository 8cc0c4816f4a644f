"""What lies at a path: a run, a bundle, photos, results; recognised without reading more than a few files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path

from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.manifest import MANIFEST_FILE
from oodguard.core.photo_folders import split_of

RUN_FILE = "run.json"
TRITON_FILE = "config.pbtxt"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
RESULTS = (".parquet", ".csv", ".jsonl")
TABLES = (".parquet", ".csv", ".tsv")
# Names of a column and of metadata, in the first or the last bytes of whatever `score` and `predict --csv` write.
OWN_RESULTS = (b"ood_score", b"oodguard.bundle")
LISTS = (".txt", ".lst", ".list")
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")
# A folder may hold millions of files; so many names tell what it is.
LOOKED_AT = 2000
# What one sidecar of a sampled image may have; longer files are something else.
MAX_SIDECAR = 64 * 1024


class Artefact(StrEnum):
    """What a path is, as an error calls it."""

    RUN = "a run"
    RUNS = "a folder of runs"
    BUNDLE = "a bundle"
    BUNDLES = "a folder of bundles"
    PART = "a file of a run or bundle"
    TRITON = "a Triton model repository"
    SAMPLES = "a folder of flagged images"
    PHOTOS = "a folder of labelled photos"
    IMAGES = "a folder of images"
    FOLDER = "a folder without images"
    IMAGE = "an image"
    ARCHIVE = "an archive"
    SUSPECTS = "a list of suspects"
    RESULTS = "a file of results"
    TABLE = "a table"
    LIST = "a text file"
    GRAPH = "an ONNX graph"
    CHECKPOINT = "a checkpoint"
    ADDRESS = "an address"
    FILE = "a file of another kind"
    ABSENT = "nothing"


def recognise(path: Path) -> Artefact:
    """What lies at `path`. Where two answers fit, the one that oodguard itself wrote."""
    if is_address(path):
        return Artefact.ADDRESS
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            return Artefact.ABSENT
    except OSError:
        return Artefact.ABSENT
    return _file(path)


def is_address(path: Path) -> bool:
    """Whether somebody wrote an address, which `Path` shortens to one slash."""
    return path.parts[:1] in {("http:",), ("https:",), ("s3:",), ("gs:",), ("az:",)} and not path.exists()


def inside(folder: Path, kind: Artefact) -> tuple[Path, ...]:
    """The runs or the bundles of a folder, by name."""
    file = RUN_FILE if kind is Artefact.RUN else MANIFEST_FILE
    return tuple(sorted(one for one in _folders(folder) if (one / file).is_file()))


def _file(path: Path) -> Artefact:
    name = path.name.lower()
    if any((path.parent / file).is_file() for file in (RUN_FILE, MANIFEST_FILE)) and not name.endswith(RESULTS):
        return Artefact.PART
    if name.endswith(IMAGE_SUFFIXES):
        return Artefact.IMAGE
    if name.endswith(ARCHIVES):
        return Artefact.ARCHIVE
    if name.endswith(".csv") and _lists_suspects(path):
        return Artefact.SUSPECTS
    if name.endswith(TABLES) and not _is_of_ours(path):
        return Artefact.TABLE
    if name.endswith(RESULTS):
        return Artefact.RESULTS
    if name.endswith(".onnx"):
        return Artefact.GRAPH
    if name.endswith(CHECKPOINTS):
        return Artefact.CHECKPOINT
    return Artefact.LIST if name.endswith(LISTS) else Artefact.FILE


def _is_of_ours(path: Path) -> bool:
    """Whether a table holds verdicts; one that cannot be read or has nothing in it may."""
    try:
        with path.open("rb") as stream:
            head = stream.read(MAX_SIDECAR)
            # What Parquet says of itself stands at the end.
            stream.seek(max(stream.seek(0, 2) - MAX_SIDECAR, 0))
            found = head + stream.read(MAX_SIDECAR)
    except OSError:
        return True
    return not found or any(name in found for name in OWN_RESULTS)


def _lists_suspects(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            head = stream.readline(4096).strip().replace(";", ",").replace("\t", ",").split(",")
    except OSError:
        return False
    return {"path", "kind"} <= set(head) or head == ["path"]


def _folder(path: Path) -> Artefact:
    for file, kind in ((RUN_FILE, Artefact.RUN), (MANIFEST_FILE, Artefact.BUNDLE)):
        if (path / file).is_file():
            return kind
    folders = tuple(_folders(path))
    for file, kind in (
        (MANIFEST_FILE, Artefact.BUNDLES),
        (RUN_FILE, Artefact.RUNS),
        (TRITON_FILE, Artefact.TRITON),
    ):
        if any((one / file).is_file() for one in folders):
            return kind
    if _labelled(folders):
        return Artefact.PHOTOS
    places = (path, *folders)
    if any(_sampled(place) for place in places):
        return Artefact.SAMPLES
    return Artefact.IMAGES if any(_holds_image(place) for place in _below(path)) else Artefact.FOLDER


def _labelled(folders: tuple[Path, ...]) -> bool:
    """Whether these are class folders, at least two of them with images, or train/, val/ or test/ of such."""
    if any(split_of(one.name) and _labelled(tuple(_folders(one))) for one in folders):
        return True
    return len([one for one in islice(folders, 50) if _holds_image(one)]) >= 2


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from islice((one for one in entries if not one.name.startswith(".")), LOOKED_AT)
    except OSError:
        return


def _folders(folder: Path) -> Iterator[Path]:
    for one in _entries(folder):
        try:
            if one.is_dir():
                yield folder / one.name
        except OSError:
            continue


def _below(folder: Path, depth: int = 3) -> Iterator[Path]:
    yield folder
    if depth:
        for one in islice(_folders(folder), 50):
            yield from _below(one, depth - 1)


def _holds_image(folder: Path) -> bool:
    return any(one.name.lower().endswith(IMAGE_SUFFIXES) for one in _entries(folder))


def _sampled(folder: Path) -> bool:
    """Whether the first sidecar of the folder is one that a server wrote beside a flagged image."""
    names = {one.name for one in _entries(folder)}
    stems = {Path(name).stem for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    sidecar = next((name for name in sorted(names) if name.endswith(".json") and Path(name).stem in stems), None)
    if sidecar is None:
        return False
    try:
        with (folder / sidecar).open("rb") as stream:
            found = json.loads(stream.read(MAX_SIDECAR))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "ood_score" in found
