"""The images of the suite `cifar10`: all of 32 x 32 pixels, prepared in one way, with the same JPEG compression.

CIFAR-10 comes as JPEG files of quality 75 with halved chroma (their quantisation tables say so). Compression leaves
traces that a detector can find, so every other image is brought to 32 x 32 by the project's image path (Pillow,
bicubic) and then compressed and decoded once in the same way.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodguard.core.errors import ImageError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels, open_image, to_pixels
from oodguard.training.photos.digits import write_digits
from oodguard.training.photos.labelled import Photo, load_unlabelled

Entry = TypeVar("Entry")

SIDE = 32
QUALITY = 75
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
SMALL = Preprocessing(resize=SIDE, crop=SIDE, mean=MEAN, std=STD)
# Auxiliary outliers are patches of photos, with a side of at least this share of the photo's.
MIN_PATCH = 0.3

# ImageNet synsets that show a CIFAR-10 class: as outliers they would teach the opposite of the labels.
_SAME_RANGES = (
    range(1503061, 1624834),  # birds
    range(1639765, 1652027),  # frogs
    range(1789386, 1861779),  # game birds, parrots, waterfowl
    range(2000954, 2058222),  # wading birds and seabirds
    range(2084071, 2113979),  # dogs
    range(2121808, 2124624),  # cats
    range(2374451, 2391995),  # horses
    range(2419796, 2433926),  # antelopes, deer
)
_SAME_VEHICLES = frozenset((
    2687172, 2690373, 2692877, 2701002, 2704792, 2814533, 2930766, 2951358, 2981792, 3095699, 3100240, 3344393,
    3345487, 3417042, 3594945, 3662601, 3670208, 3673027, 3770679, 3777568, 3796401, 3930630, 3947888, 3977966,
    4037443, 4147183, 4252225, 4273569, 4285008, 4461696, 4467665, 4483307, 4552348, 4606251, 4612504,
))  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """A zip of `<class>/<n>.jpg`."""

    path: Path

    def need(self) -> None:
        """Refuse a missing file. Raises `InputError`."""
        if not self.path.is_file():
            raise InputError(f"{self.path} is missing: the suite cifar10 reads CIFAR-10 from it, as <class>/<n>.jpg")

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)

    def read(self, per_class: int | None = None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """uint8 images `[N, 3, 32, 32]`, classes `[N]` and class names, of all or the first `per_class` of each.

        Raises `InputError` for a file that is no such zip.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = sorted(name for name in archive.namelist() if re.fullmatch(r"[^/]+/[^/]+\.jpe?g", name))
                classes = tuple(sorted({name.split("/")[0] for name in names}))
                if len(classes) < 2:
                    raise InputError(f"{self.path} holds no <class>/<n>.jpg of at least two classes; put them there")
                chosen = [
                    (label, name)
                    for label, title in enumerate(classes)
                    for name in [n for n in names if n.startswith(f"{title}/")][:per_class]
                ]
                images = [_decoded(archive, name) for _, name in chosen]
        except zipfile.BadZipFile as error:
            raise InputError(f"{self.path} cannot be read: {error}") from None
        return as_tensor(images), torch.tensor([label for label, _ in chosen]), classes


def _decoded(archive: zipfile.ZipFile, name: str) -> Pixels:
    try:
        return load_pixels(archive.read(name), SMALL)
    except ImageError as error:
        raise InputError(f"{archive.filename}: {name}: {error}") from None


def as_tensor(images: Iterable[Pixels]) -> Tensor:
    """`[N, 3, S, S]` of images `[S, S, 3]`."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous()


def compressed(pixels: Pixels) -> Pixels:
    """The pixels after JPEG compression as CIFAR-10's."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return np.asarray(open_image(stream.getvalue()), dtype=np.uint8)


def small_photos(photos: Sequence[Photo], maximum: int | None) -> Tensor:
    """All photos, or `maximum` of them at even distances, as small images."""
    return as_tensor(compressed(load_pixels(photo.path.read_bytes(), SMALL)) for photo in spread(photos, maximum))


def digits(cache: Path, maximum: int | None) -> Tensor:
    """scikit-learn's handwritten digits (test split), drawn dark on white."""
    return small_photos(load_unlabelled(write_digits(cache) / "test"), maximum)


def noise(count: int, *, normal: bool) -> Tensor:
    """Uniform or Gaussian (mean 1/2, deviation 1/4) noise, pixel by pixel; every call returns the same images."""
    rng = np.random.default_rng(0)
    shape = (count, SIDE, SIDE, 3)
    values = rng.normal(127.5, 63.75, shape) if normal else rng.uniform(0, 256, shape)
    return as_tensor(compressed(image) for image in values.clip(0, 255).astype(np.uint8))


def outlier_photos(folder: Path) -> tuple[Photo, ...]:
    """The outlier photos, without those whose name is an ImageNet synset of a CIFAR-10 class."""
    return tuple(photo for photo in load_unlabelled(folder) if not _same(photo.path.name))


def _same(name: str) -> bool:
    found = re.match(r"n(\d{8})_", name)
    if found is None:
        return False
    synset = int(found[1])
    return synset in _SAME_VEHICLES or any(synset in numbers for numbers in _SAME_RANGES)


def patches(photos: Sequence[Photo], each: int, *, seed: int) -> Tensor:
    """`each` random squares of every photo as small images: a few hundred photos make a few thousand outliers."""
    rng = np.random.default_rng(seed)
    found = []
    for photo in photos:
        image = open_image(photo.path.read_bytes())
        for _ in range(each):
            side = round(min(image.size) * rng.uniform(MIN_PATCH, 1.0))
            left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
            found.append(compressed(to_pixels(image.crop((left, top, left + side, top + side)), SMALL)))
    return as_tensor(found)


def spread(items: Sequence[Entry], maximum: int | None) -> Sequence[Entry]:
    """At most `maximum` of the items, at even distances."""
    if maximum is None or len(items) <= maximum:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, maximum).round().astype(int)]
