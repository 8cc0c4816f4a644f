"""Labelled photos on disk: finding them, naming what is wrong with them, and splitting them without leaks."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.photo_folders import unwrapped
from oodguard.training.options import DIGITS
from oodguard.training.record import Duplicates

MIN_PER_CLASS = 4
MAX_ZIP_BYTES = 64 * 1024**3


@dataclass(frozen=True)
class Photo:
    """One image file, its class, and the SHA-256 of its bytes (its identity everywhere)."""

    path: Path
    label: str
    sha256: str


@dataclass(frozen=True)
class Photos:
    """A labelled data set: the images to learn from and, where the user gave one, the test split.

    held: images that are to calibrate, where a wrapped classifier has not been trained on them. root: the data folder,
    or the folder that an archive was unpacked to. left_out: how many photos were left out on demand, by their kind.
    duplicates: the copies that were found in test/ and under several labels.
    """

    pool: tuple[Photo, ...]
    test: tuple[Photo, ...]
    held: tuple[Photo, ...] = ()
    root: Path = Path()
    left_out: Mapping[str, int] = field(default_factory=dict)
    duplicates: Duplicates | None = None

    def name(self, photo: Photo) -> str:
        """The path of a photo relative to the data folder, with slashes."""
        inside = photo.path.is_relative_to(self.root)
        return (photo.path.relative_to(self.root) if inside else photo.path).as_posix()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(sorted({photo.label for photo in self.pool}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every image's identity and label: the same photos give the same value anywhere."""
        digest = hashlib.sha256()
        for split, photos in (("pool", self.pool), ("test", self.test), ("held", self.held)):
            for line in sorted(f"{split}\0{photo.label}\0{photo.sha256}\n" for photo in photos):
                digest.update(line.encode())
        return digest.hexdigest()

    def without(self, labels: frozenset[str]) -> Photos:
        """The same data without some classes."""
        return replace(
            self,
            pool=tuple(p for p in self.pool if p.label not in labels),
            test=tuple(p for p in self.test if p.label not in labels),
            held=tuple(p for p in self.held if p.label not in labels),
        )

    def without_photos(self, dropped: Mapping[Photo, str]) -> Photos:
        """The same data without some photos, each with its kind of suspect."""
        return replace(
            self,
            pool=tuple(p for p in self.pool if p not in dropped),
            test=tuple(p for p in self.test if p not in dropped),
            held=tuple(p for p in self.held if p not in dropped),
            left_out=Counter(dropped.values()),
        )


def identity(photos: Iterable[Photo]) -> str:
    """One SHA-256 for photos in their order."""
    return hashlib.sha256("".join(photo.sha256 for photo in photos).encode()).hexdigest()


def load_photos(source: Path, cache: Path) -> Photos:
    """Find the labelled photos of `source`: class folders, `train/val/test` of class folders, or a zip of either.

    `val` images join the pool: the calibration set is chosen from the pool by content, so that near-duplicates stay
    on one side. Raises `InputError` in one sentence for anything that cannot be trained on.
    """
    found = find_photos(source, cache)
    require_enough(Counter(photo.label for photo in found.pool))
    return found


def find_photos(source: Path, cache: Path) -> Photos:
    """As `load_photos`, but classes may be as small as they are. Raises `InputError` where there are not 2 classes."""
    root = data_folder(source, cache)
    source = unwrapped(root)
    if (source / "train").is_dir():
        pool = class_folders(source / "train")
        known = {photo.label for photo in pool}
        val = class_folders(source / "val") if (source / "val").is_dir() else ()
        test = class_folders(source / "test") if (source / "test").is_dir() else ()
        for name, photos in (("val", val), ("test", test)):
            extra = sorted({photo.label for photo in photos} - known)
            if extra:
                raise InputError(
                    f"{source / name} has classes that {source / 'train'} lacks: {_listed(extra)}; "
                    "add training images or remove those folders"
                )
        found = Photos(pool=pool + val, test=test, root=root)
    else:
        found = Photos(pool=class_folders(source), test=(), root=root)
    counts = Counter(photo.label for photo in found.pool)
    if not counts:
        raise InputError(f"{source} has no images ({', '.join(IMAGE_SUFFIXES)}) in class folders")
    if len(counts) < 2:
        raise InputError(f"{source} has one class ({next(iter(counts))}); at least 2 are needed")
    return found


def photo_folder(source: Path, cache: Path) -> Path:
    """The folder in `data_folder` that holds the photos, which others may wrap. Raises `InputError`."""
    return unwrapped(data_folder(source, cache))


def data_folder(source: Path, cache: Path) -> Path:
    """The folder that `source` stands for: itself, what a zip unpacks to, or the embedded example.

    Raises `InputError` where there is none.
    """
    if str(source) == DIGITS and not source.exists():
        from oodguard.training.photos.digits import write_digits

        source = write_digits(cache)
    if not source.exists():
        raise InputError(f"{source} does not exist")
    return _unzip(source, cache) if source.is_file() else source


def require_enough(counts: Counter[str]) -> None:
    """Raise `InputError` naming the classes with fewer than `MIN_PER_CLASS` images."""
    few = sorted(label for label, count in counts.items() if count < MIN_PER_CLASS)
    if few:
        raise InputError(
            f"too few images in {_listed([f'{label} ({counts[label]})' for label in few])}; "
            f"every class needs at least {MIN_PER_CLASS}"
        )


def load_unlabelled(source: Path) -> tuple[Photo, ...]:
    """All images under a folder, whatever its layout; the label is the name of the folder they lie in."""
    if not source.is_dir():
        raise InputError(f"{source} is not a folder")
    photos = tuple(_photo(path, path.parent.name) for path in _images(source))
    if not photos:
        raise InputError(f"{source} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return photos


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _images(folder: Path) -> list[Path]:
    """The images below a folder, those in linked folders too; a link back to where it lies is not followed again."""
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        paths = (Path(root, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(found)


def _photo(path: Path, label: str) -> Photo:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return Photo(path=path, label=label, sha256=hashlib.sha256(data).hexdigest())


def class_folders(folder: Path) -> tuple[Photo, ...]:
    """The images of each folder in `folder`, which is their label."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(_photo(path, sub.name) for sub in classes for path in _images(sub))


def _unzip(archive: Path, cache: Path) -> Path:
    """Unpack a zip once, into the cache, by content; nothing can be written outside it."""
    if not zipfile.is_zipfile(archive):
        raise InputError(f"{archive} is neither a folder nor a zip file")
    with archive.open("rb") as stream:
        target = cache / "unzipped" / hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    if target.is_dir():
        return target
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(archive) as bundle:
        images = [i for i in bundle.infolist() if i.filename.lower().endswith(IMAGE_SUFFIXES)]
        for info in images:
            name = PurePosixPath(info.filename)
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{archive} holds {info.filename}, a path outside the archive")
        if sum(info.file_size for info in images) > MAX_ZIP_BYTES:
            raise InputError(f"{archive} would unpack to more than {MAX_ZIP_BYTES // 1024**3} GiB")
        try:
            for info in images:
                bundle.extract(info, partial)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{archive} cannot be unpacked ({error})") from None
    if not images:
        raise InputError(f"{archive} has no images ({', '.join(IMAGE_SUFFIXES)})")
    partial.rename(target)
    return target
