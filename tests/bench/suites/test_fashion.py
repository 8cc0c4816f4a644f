"""The suite fashion-mnist on files of a few generated pictures."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodguard.bench.arena import Arena, BenchSetting
from oodguard.bench.suites import fashion
from oodguard.bench.suites.catalogue import SUITES
from oodguard.bench.suites.fashion import CLASSES, FILES, QUICK, SIDE, FashionSuite, drawn_classes
from oodguard.core.errors import InputError
from oodguard.training.compute import start_compute
from oodguard.training.progress import Silent

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(QUICK, train=24, test=3, ood=4, noise=5)


def write_split(folder: Path, split: str, per_class: int) -> None:
    """Pictures whose every pixel is their class's number, in mixed order."""
    labels = np.tile(np.arange(len(CLASSES), dtype=np.uint8), per_class)
    images = np.repeat(labels, SIDE * SIDE).reshape(-1, SIDE, SIDE)
    for name, array in zip(FILES[split], (images, labels), strict=True):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "fashion-mnist").mkdir()
    write_split(root / "fashion-mnist", "train", 30)
    write_split(root / "fashion-mnist", "test", 5)
    for name in ("produce", "clothing"):
        folder = root / name / "test" / "thing"
        folder.mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (40 + index, 50), (200, 200, 200)).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def arena(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Arena:
    setting = BenchSetting(data=data, cache=tmp_path_factory.mktemp("cache"), quick=True)
    (plan,) = FashionSuite(quick=TINY).plans(setting, 0)
    return plan.build(start_compute(1), Silent())


def test_the_suite_is_listed() -> None:
    assert SUITES["fashion-mnist"].summary.startswith("ID Fashion-MNIST")


def test_images_are_those_of_their_classes_and_the_others_are_near(arena: Arena) -> None:
    known = drawn_classes(0)
    assert len(known) == 7
    problem = arena.problem
    assert problem.inputs.shape == (1, 7 * 22, 3, SIDE, SIDE)
    assert problem.calibration_targets.bincount().tolist() == [2] * 7
    for images, targets in ((problem.inputs[0], problem.targets), (arena.test, arena.test_targets)):
        assert torch.equal(images[:, 0, 0, 0].long(), torch.tensor(known)[targets])
    near = arena.ood_sets["left-out classes"]
    assert near.kind == "near"
    assert set(near.inputs.unique().tolist()) == set(range(10)) - set(known)
    assert problem.outliers is None


def test_far_sets_are_grey_and_bright_on_dark_and_no_clothes(arena: Arena) -> None:
    sizes = {name: len(found.inputs) for name, found in arena.ood_sets.items() if found.kind == "far"}
    assert sizes == {"produce": 4, "digits": 4, "uniform noise": 5}
    for found in arena.ood_sets.values():
        assert torch.equal(found.inputs[:, 0], found.inputs[:, 2])
    assert arena.ood_sets["produce"].inputs.unique().tolist() == [55]
    # Strokes on an empty ground.
    assert arena.ood_sets["digits"].inputs.float().mean() < 100


def test_seeds_draw_other_classes() -> None:
    draws = {drawn_classes(seed) for seed in range(10)}
    assert len(draws) >= 8
    assert drawn_classes(3) == drawn_classes(3)


def test_missing_and_wrong_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "nowhere")
    setting = BenchSetting(data=tmp_path, cache=tmp_path, quick=True)
    with pytest.raises(InputError, match="put Fashion-MNIST there, or install Debian's dataset-fashion-mnist"):
        FashionSuite().plans(setting, 0)
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    write_split(folder, "train", 2)
    with pytest.raises(InputError, match=r"lacks t10k-images-idx3-ubyte\.gz, t10k-labels"):
        FashionSuite().plans(setting, 0)
    write_split(folder, "test", 2)
    (folder / FILES["test"][1]).write_bytes((folder / FILES["train"][0]).read_bytes())
    (plan,) = FashionSuite(quick=TINY).plans(setting, 0)
    with pytest.raises(InputError, match="does not hold Fashion-MNIST: test has images"):
        plan.build(start_compute(1), Silent())
