"""The suite `cifar10`: the papers' benchmark, on networks trained from nothing and on frozen features.

ID is CIFAR-10, read from `cifar10/{train,test}.zip`; a tenth of its training images is held out for calibration. OOD
images are photos of other things (produce, packages, clothing), digits and noise, all prepared by `cifar_data.py` in
the same way; auxiliary outliers are random patches of the photos in `outliers/`.

| arena | full, for a GPU | quick, for two CPU cores |
|---|---|---|
| `wrn` | WRN-40-2, 45,000 images; 100 epochs from nothing, 10 for heads, 10 of tuning | WRN-10-1, 2,700; 10, 4, 1 |
| `frozen` | EfficientNet-Lite0 at 224 pixels | at 96 pixels, the same 2,700 images |

A quick comparison takes about half an hour on two cores. In `wrn`, to train and score takes one core this many seconds:
`single` 90, `ldr` 25, `joint` 50, `amp` 85, `greg` 60, `greg-plus` 90, `ice` 15; from these some 1,300 for all
methods, of which `ice-scratch` 150. In `frozen`: 55 for the features, then 2 to 10 per method. It shows that everything
runs and how methods differ in kind; its numbers are those of a weak classifier.

`--network` trains another network in place of the wide ResNet, in an arena of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from oodguard.bench.arena import Arena, BenchPlan, BenchSetting, OodSet
from oodguard.bench.networks.catalogue import network_of
from oodguard.bench.problem import LearningProblem, Space
from oodguard.bench.spaces.pixels import PixelSpace
from oodguard.bench.suites import cifar_data, store
from oodguard.bench.suites.folders import feature_space, heads_key
from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.features import BATCH, batches, trunk_runner
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.loop import Schedule
from oodguard.training.photos.labelled import Photo, identity, load_unlabelled
from oodguard.training.photos.split import split_off
from oodguard.training.progress import Reporter

FORMAT = 1
CALIBRATION = 0.1
FOLDERS = ("produce", "packages", "clothing")


@dataclass(frozen=True)
class Size:
    """How much of everything; None: all there is. `patches`: outliers made from each photo. `network`: by name."""

    train: int | None
    test: int | None
    ood: int | None
    noise: int
    patches: int
    network: str
    image_size: int
    scratch: Schedule
    heads: Schedule
    fine_tune: Schedule


FULL = Size(
    train=None,
    test=None,
    ood=None,
    noise=1000,
    patches=20,
    network="wrn-40-2",
    image_size=224,
    scratch=Schedule(epochs=100, batch=128, lr=0.1, weight_decay=5e-4, optimiser="sgd"),
    heads=Schedule(epochs=10, batch=128, lr=0.05, weight_decay=5e-4, optimiser="sgd"),
    fine_tune=Schedule(epochs=10, batch=128, lr=1e-3, weight_decay=5e-4, optimiser="sgd"),
)
QUICK = Size(
    train=300,
    test=60,
    ood=150,
    noise=150,
    patches=4,
    network="wrn-10-1",
    image_size=96,
    scratch=Schedule(epochs=10, batch=64, lr=0.1, weight_decay=5e-4, optimiser="sgd"),
    heads=Schedule(epochs=4, batch=64, lr=0.05, weight_decay=5e-4, optimiser="sgd"),
    # A short run needs a higher rate to go anywhere.
    fine_tune=Schedule(epochs=1, batch=64, lr=0.01, weight_decay=5e-4, optimiser="sgd"),
)


@dataclass(frozen=True)
class CifarSuite:
    """CIFAR-10 in pixels and in frozen features. `full` and `quick` say how much of it."""

    name: str = "cifar10"
    summary: str = "ID CIFAR-10; far: produce, packages, clothing, digits, noise; from scratch and on frozen features"
    full: Size = FULL
    quick: Size = QUICK

    def plans(self, setting: BenchSetting, seed: int) -> list[BenchPlan]:
        """An arena named after the kind of network, and `frozen`.

        Raises `InputError` for missing data or an unknown network.
        """
        size = self.quick if setting.quick else self.full
        if setting.network is not None:
            network_of(setting.network, classes=2)  # a wrong name is refused before any image is read
            size = replace(size, network=setting.network)
        kind = size.network.partition("-")[0]
        sources = Sources.find(setting.data)
        key: dict[str, str | int | float | bool | None] = {
            "suite": self.name,
            "format": FORMAT,
            "seed": seed,
            "size": repr(size),
            **sources.fingerprints(),
        }

        def pixels(compute: Fabric, report: Reporter) -> Arena:
            space = _pixel_space(size)
            return store.kept(
                store.path_of(setting.cache, {**key, "arena": "pixels"}),
                compute,
                lambda: sources.arena(size, setting.cache, space, seed, report),
                lambda _: space,
            )

        framed = {
            **key,
            "arena": "frozen",
            "backbone": setting.backbone,
            "image_size": setting.image_size or size.image_size,
        }

        def frozen(compute: Fabric, report: Reporter) -> Arena:
            return store.kept(
                store.path_of(setting.cache, framed),
                compute,
                lambda: _featured(pixels(compute, report), setting, setting.image_size or size.image_size, report),
                lambda inputs: feature_space(inputs[0], setting),
            )

        return [
            BenchPlan(name=kind, seed=seed, key={**key, "arena": kind}, build=pixels),
            BenchPlan(name="frozen", seed=seed, key={**framed, **heads_key(setting)}, build=frozen),
        ]


@dataclass(frozen=True)
class Sources:
    """Where the images of CIFAR-10, of the OOD sets and of the outliers are."""

    train: cifar_data.Archive
    test: cifar_data.Archive
    folders: Mapping[str, tuple[Photo, ...]]
    outliers: tuple[Photo, ...]

    @classmethod
    def find(cls, data: Path) -> Sources:
        """The sources under the data root. Raises `InputError` where one is missing."""
        train, test = (cifar_data.Archive(data / "cifar10" / f"{name}.zip") for name in ("train", "test"))
        train.need()
        test.need()
        return cls(
            train=train,
            test=test,
            folders={name: load_unlabelled(data / name / "test") for name in FOLDERS},
            outliers=cifar_data.outlier_photos(data / "outliers"),
        )

    def fingerprints(self) -> dict[str, str]:
        """The identity of the images, for a key."""
        return {
            "train": self.train.fingerprint(),
            "test": self.test.fingerprint(),
            "ood": identity(photo for photos in self.folders.values() for photo in photos),
            "outliers": identity(self.outliers),
        }

    def arena(self, size: Size, cache: Path, space: Space, seed: int, report: Reporter) -> Arena:
        """The arena of small uint8 images."""
        report.note("reading CIFAR-10")
        images, targets, classes = self.train.read(size.train)
        test, test_targets, test_classes = self.test.read(size.test)
        if classes != test_classes:
            raise InputError(
                f"{self.train.path} and {self.test.path} hold different classes; make both from one data set"
            )
        kept, calibration = (
            torch.from_numpy(rows) for rows in split_off(targets.numpy(), None, fraction=CALIBRATION, seed=seed)
        )
        report.note("reading OOD sets and outliers")
        ood = {name: cifar_data.small_photos(photos, size.ood) for name, photos in self.folders.items()}
        ood["digits"] = cifar_data.digits(cache, size.ood)
        ood["uniform noise"] = cifar_data.noise(size.noise, normal=False)
        ood["Gaussian noise"] = cifar_data.noise(size.noise, normal=True)
        problem = LearningProblem(
            inputs=images[kept].unsqueeze(0),
            targets=targets[kept],
            calibration=images[calibration],
            calibration_targets=targets[calibration],
            outliers=cifar_data.patches(self.outliers, size.patches, seed=seed),
            classes=len(classes),
            space=space,
            seed=seed,
        )
        return Arena(
            problem=problem,
            test=test,
            test_targets=test_targets,
            ood_sets={name: OodSet("far", found) for name, found in ood.items()},
        )


def _pixel_space(size: Size) -> PixelSpace:
    return PixelSpace(
        name=size.network,
        side=cifar_data.SIDE,
        mean=cifar_data.MEAN,
        std=cifar_data.STD,
        scratch=size.scratch,
        heads=size.heads,
        fine_tune=size.fine_tune,
    )


def _featured(pixels: Arena, setting: BenchSetting, side: int, report: Reporter) -> Arena:
    """The same arena in the features of a frozen network, of images enlarged as photos are shrunk."""
    backbone = load_backbone(setting.backbone, image_size=side, tune=False)
    run = trunk_runner(backbone.trunk, backbone.preprocessing, threads=setting.threads)

    def features(images: Tensor, what: str) -> Tensor:
        found = []
        for rows in batches(len(images), BATCH):
            found.append(torch.from_numpy(run(_enlarged(images[rows], backbone.preprocessing))).flatten(1))
            report.progress(f"features of {what}", rows.stop, len(images))
        return torch.cat(found)

    old = pixels.problem
    inputs = features(old.inputs[0], "training images")
    assert old.outliers is not None
    problem = LearningProblem(
        inputs=inputs.unsqueeze(0),
        targets=old.targets,
        calibration=features(old.calibration, "calibration images"),
        calibration_targets=old.calibration_targets,
        outliers=features(old.outliers, "outliers"),
        classes=old.classes,
        space=feature_space(inputs, setting),
        seed=old.seed,
    )
    ood_sets = {name: OodSet(found.kind, features(found.inputs, name)) for name, found in pixels.ood_sets.items()}
    return Arena(
        problem=problem, test=features(pixels.test, "test images"), test_targets=pixels.test_targets, ood_sets=ood_sets
    )


def _enlarged(images: Tensor, preprocessing: Preprocessing) -> np.ndarray:
    size = preprocessing.size[::-1]
    rows = images.permute(0, 2, 3, 1).numpy()
    return np.stack([np.asarray(Image.fromarray(row).resize(size, Image.Resampling.BICUBIC)) for row in rows])
