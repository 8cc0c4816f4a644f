"""The suite `fashion-mnist`: grey pictures of clothes, on a small network trained from nothing.

ID is seven of Fashion-MNIST's ten classes, which the seed draws; near-OOD are the test images of the other three, so
that many seeds are many questions. Far-OOD are digits, photos of other things and noise, all of 28 x 28 grey pixels.
A twelfth of the training images is held out for calibration. Nothing here is an auxiliary outlier: the three classes
and the far sets are seen by nothing that is trained or calibrated.

The images are read from `fashion-mnist/` under the data root, or from where Debian's package dataset-fashion-mnist
puts them.

| | full | quick, for two CPU cores |
|---|---|---|
| network | WRN-16-2; 20 epochs from nothing, 5 for heads, 5 of tuning | WRN-10-1; 10, 4, 2 |
| images of each class | 5,500 for training | 600 |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from oodguard.bench.arena import Arena, BenchPlan, BenchSetting, OodSet
from oodguard.bench.problem import LearningProblem
from oodguard.bench.spaces.pixels import PixelSpace
from oodguard.bench.suites import cifar_data, store
from oodguard.bench.suites.idx import read_idx
from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.core.preprocessing import Preprocessing, load_pixels
from oodguard.training.loop import Schedule
from oodguard.training.photos.digits import write_digits
from oodguard.training.photos.labelled import Photo, identity, load_unlabelled
from oodguard.training.photos.split import split_off
from oodguard.training.progress import Reporter

FORMAT = 1
SIDE = 28
# The same for each of three equal channels.
MEAN, STD = (0.286, 0.286, 0.286), (0.353, 0.353, 0.353)
LEFT_OUT = 3
CALIBRATION = 1 / 12
# Photos of clothes would show the classes themselves.
FOLDERS = ("produce", "packages")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class FashionSize:
    """How much of everything; None: all there is. `network`: by name."""

    train: int | None
    test: int | None
    ood: int | None
    noise: int
    network: str
    scratch: Schedule
    heads: Schedule
    fine_tune: Schedule


def _schedule(epochs: int, lr: float) -> Schedule:
    return Schedule(epochs=epochs, batch=128, lr=lr, weight_decay=5e-4, optimiser="sgd")


FULL = FashionSize(
    train=None,
    test=None,
    ood=None,
    noise=1000,
    network="wrn-16-2",
    scratch=_schedule(20, 0.1),
    heads=_schedule(5, 0.05),
    fine_tune=_schedule(5, 1e-3),
)
QUICK = FashionSize(
    train=600,
    test=200,
    ood=300,
    noise=300,
    network="wrn-10-1",
    scratch=_schedule(10, 0.1),
    heads=_schedule(4, 0.05),
    fine_tune=_schedule(2, 0.01),
)


@dataclass(frozen=True)
class FashionSuite:
    """Fashion-MNIST in pixels, three of its classes left out. `full` and `quick` say how much of it."""

    name: str = "fashion-mnist"
    summary: str = "ID Fashion-MNIST; near: 3 left-out classes; far: digits, photos, noise; from scratch"
    full: FashionSize = FULL
    quick: FashionSize = QUICK

    def plans(self, setting: BenchSetting, seed: int) -> list[BenchPlan]:
        """One arena. Raises `InputError` for missing data."""
        size = self.quick if setting.quick else self.full
        sources = FashionSources.find(setting.data)
        key: dict[str, str | int | float | bool | None] = {
            "suite": self.name,
            "format": FORMAT,
            "seed": seed,
            "size": repr(size),
            **sources.fingerprints(),
        }
        space = PixelSpace(
            name=size.network,
            side=SIDE,
            mean=MEAN,
            std=STD,
            scratch=size.scratch,
            heads=size.heads,
            fine_tune=size.fine_tune,
        )

        def build(compute: Fabric, report: Reporter) -> Arena:
            return store.kept(
                store.path_of(setting.cache, key),
                compute,
                lambda: sources.arena(size, setting.cache, space, seed, report),
                lambda _: space,
            )

        return [BenchPlan(name=self.name, seed=seed, key=key, build=build)]


@dataclass(frozen=True)
class FashionSources:
    """Where the images of Fashion-MNIST and of the far-OOD sets are."""

    folder: Path
    photos: dict[str, tuple[Photo, ...]]

    @classmethod
    def find(cls, data: Path) -> FashionSources:
        """The sources under the data root. Raises `InputError` where they are missing."""
        folders = (data / "fashion-mnist", DEBIAN)
        folder = next((each for each in folders if (each / FILES["train"][0]).is_file()), None)
        if folder is None:
            raise InputError(
                f"{folders[0]} has no {FILES['train'][0]}; put Fashion-MNIST there, or install Debian's "
                "dataset-fashion-mnist"
            )
        missing = [name for names in FILES.values() for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} lacks {', '.join(missing)}")
        there = [name for name in FOLDERS if (data / name / "test").is_dir()]
        return cls(folder=folder, photos={name: load_unlabelled(data / name / "test") for name in there})

    def fingerprints(self) -> dict[str, str]:
        """The identity of the images, for a key."""
        files = [file_sha256(self.folder / name) for names in FILES.values() for name in names]
        return {"files": ",".join(files), "ood": identity(p for photos in self.photos.values() for p in photos)}

    def read(self, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images `[N, 28, 28]` and classes `[N]` of "train" or "test". Raises `InputError` where they do not fit."""
        images, labels = (read_idx(self.folder / name) for name in FILES[split])
        fits = labels.ndim == 1 and images.shape == (len(labels), SIDE, SIDE)
        if not fits or set(np.unique(labels)) != set(range(len(CLASSES))):
            shapes = f"{list(images.shape)} and labels {list(labels.shape)}"
            raise InputError(f"{self.folder} does not hold Fashion-MNIST: {split} has images {shapes}")
        return images, labels.astype(np.int64)

    def arena(self, size: FashionSize, cache: Path, space: PixelSpace, seed: int, report: Reporter) -> Arena:
        """The arena of a seed's draw."""
        report.note("reading Fashion-MNIST")
        known = drawn_classes(seed)
        images, targets = _chosen(*self.read("train"), known, size.train)
        test, test_targets = _chosen(*self.read("test"), known, size.test)
        unknown = tuple(label for label in range(len(CLASSES)) if label not in known)
        kept, calibration = (
            torch.from_numpy(rows) for rows in split_off(targets.numpy(), None, fraction=CALIBRATION, seed=seed)
        )
        report.note("reading OOD sets")
        ood = {"left-out classes": OodSet("near", _chosen(*self.read("test"), unknown, size.test)[0])}
        for name, photos in self.photos.items():
            ood[name] = OodSet("far", _small(photos, size.ood))
        ood["digits"] = OodSet("far", _small(load_unlabelled(write_digits(cache) / "test"), size.ood))
        noise = np.random.default_rng(0).integers(0, 256, (size.noise, SIDE, SIDE), dtype=np.uint8)
        ood["uniform noise"] = OodSet("far", _as_tensor(noise))
        problem = LearningProblem(
            inputs=images[kept].unsqueeze(0),
            targets=targets[kept],
            calibration=images[calibration],
            calibration_targets=targets[calibration],
            outliers=None,
            classes=len(known),
            space=space,
            seed=seed,
        )
        return Arena(problem=problem, test=test, test_targets=test_targets, ood_sets=ood)


def drawn_classes(seed: int) -> tuple[int, ...]:
    """The classes that a seed keeps, in order."""
    left_out = np.random.default_rng(seed).choice(len(CLASSES), LEFT_OUT, replace=False)
    return tuple(label for label in range(len(CLASSES)) if label not in left_out)


def _chosen(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: tuple[int, ...], per_class: int | None
) -> tuple[Tensor, Tensor]:
    """The first `per_class` images of some classes, which are numbered anew."""
    rows = [np.flatnonzero(labels == label)[:per_class] for label in classes]
    targets = np.repeat(np.arange(len(classes)), [len(each) for each in rows])
    return _as_tensor(images[np.concatenate(rows)]), torch.from_numpy(targets)


def _as_tensor(grey: npt.NDArray[np.uint8]) -> Tensor:
    """`[N, 3, S, S]` of grey images `[N, S, S]`."""
    return torch.from_numpy(grey.copy()).unsqueeze(1).repeat(1, 3, 1, 1)


def _small(photos: tuple[Photo, ...], maximum: int | None) -> Tensor:
    """Photos as grey images, as Fashion-MNIST was made: small, and bright on dark."""
    preprocessing = Preprocessing(resize=SIDE, crop=SIDE, mean=MEAN, std=STD)
    shown = (load_pixels(p.path.read_bytes(), preprocessing) for p in cifar_data.spread(photos, maximum))
    grey = [255 - np.asarray(Image.fromarray(pixels).convert("L")) for pixels in shown]
    return _as_tensor(np.stack(grey))
