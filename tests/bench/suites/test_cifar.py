"""The suite cifar10 on a data folder of a few generated images."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodguard.bench.arena import Arena, BenchPlan, BenchSetting
from oodguard.bench.spaces.pixels import PixelSpace
from oodguard.bench.suites import cifar_data
from oodguard.bench.suites.catalogue import SUITES
from oodguard.bench.suites.cifar import QUICK, CifarSuite
from oodguard.core.errors import InputError
from oodguard.training.compute import start_compute
from oodguard.training.progress import Silent

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(QUICK, train=20, test=3, ood=4, noise=5, patches=2, image_size=32)
CLASSES = ("bird", "cat", "ship")


def jpeg(rng: np.random.Generator, width: int, height: int, quality: int = 75) -> bytes:
    stream = io.BytesIO()
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "cifar10").mkdir()
    for split, count in (("train", 24), ("test", 5)):
        with zipfile.ZipFile(root / "cifar10" / f"{split}.zip", "w") as archive:
            for name in CLASSES:
                for index in range(count):
                    archive.writestr(f"{name}/{index:04d}.jpg", jpeg(rng, 32, 32))
    for name in ("produce", "packages", "clothing"):
        folder = root / name / "test" / "thing"
        folder.mkdir(parents=True)
        for index in range(6):
            (folder / f"{index}.jpg").write_bytes(jpeg(rng, 70, 50 + index))
    (root / "outliers").mkdir()
    for name in ("n02123045_tabby", "n04273569_speedboat", "n02669723_gown", "n07753592_banana", "mine"):
        (root / "outliers" / f"{name}.jpg").write_bytes(jpeg(rng, 60, 90))
    return root


@pytest.fixture(scope="module")
def plans(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[BenchPlan]:
    setting = BenchSetting(data=data, cache=tmp_path_factory.mktemp("cache"), quick=True)
    return CifarSuite(quick=TINY).plans(setting, 0)


@pytest.fixture(scope="module")
def wrn(plans: list[BenchPlan]) -> Arena:
    return plans[0].build(start_compute(1), Silent())


def test_the_suite_has_a_name_and_two_arenas(plans: list[BenchPlan]) -> None:
    assert SUITES["cifar10"].summary.startswith("ID CIFAR-10")
    assert [plan.name for plan in plans] == ["wrn", "frozen"]


def test_another_network_is_trained_in_an_arena_of_its_own(
    data: Path, plans: list[BenchPlan], wrn: Arena, tmp_path: Path
) -> None:
    setting = BenchSetting(data=data, cache=tmp_path, quick=True, network="resnet18")
    plan = CifarSuite(quick=TINY).plans(setting, 0)[0]
    assert plan.name == "resnet18"
    assert plan.key != plans[0].key
    arena = plan.build(start_compute(1), Silent())
    assert torch.equal(arena.test, wrn.test)
    assert arena.problem.space.network(classes=3).head.in_features == 512


def test_images_are_counted_and_divided(wrn: Arena) -> None:
    problem = wrn.problem
    assert isinstance(problem.space, PixelSpace)
    assert problem.inputs.shape == (1, 54, 3, 32, 32)  # nine tenths of 20 a class
    assert problem.inputs.dtype == torch.uint8
    assert problem.targets.bincount().tolist() == [18, 18, 18]
    assert problem.calibration_targets.bincount().tolist() == [2, 2, 2]
    assert wrn.test_targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # Two patches of each of the three photos that show no CIFAR-10 class.
    assert problem.outliers is not None
    assert problem.outliers.shape == (6, 3, 32, 32)
    sizes = {name: len(found.inputs) for name, found in wrn.ood_sets.items()}
    assert sizes == {
        "produce": 4, "packages": 4, "clothing": 4, "digits": 4, "uniform noise": 5, "Gaussian noise": 5,
    }  # fmt: skip
    assert {found.kind for found in wrn.ood_sets.values()} == {"far"}


def test_id_images_are_the_files_themselves(data: Path, wrn: Arena) -> None:
    with zipfile.ZipFile(data / "cifar10" / "test.zip") as archive:
        expected = np.asarray(Image.open(io.BytesIO(archive.read("cat/0001.jpg"))))
    np.testing.assert_array_equal(wrn.test[4].permute(1, 2, 0).numpy(), expected)


def test_every_other_image_has_gone_through_the_same_compression(wrn: Arena) -> None:
    # What came out of such a file survives a second one almost unchanged; what did not, does not.
    rng = np.random.default_rng(1)

    def change(pixels: np.ndarray) -> float:
        return float(np.abs(cifar_data.compressed(pixels).astype(int) - pixels).mean())

    fresh = change(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert wrn.problem.outliers is not None
    for images in (wrn.test, wrn.problem.outliers, *(found.inputs for found in wrn.ood_sets.values())):
        assert change(images[0].permute(1, 2, 0).numpy()) < fresh / 4


def test_compression_is_that_of_the_data_set() -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=75, subsampling=2)
    np.testing.assert_array_equal(cifar_data.compressed(pixels), np.asarray(Image.open(stream)))


def test_the_same_key_gives_the_same_images_and_another_seed_others(
    data: Path, wrn: Arena, plans: list[BenchPlan], tmp_path: Path
) -> None:
    def again(seed: int) -> tuple[BenchPlan, Arena]:
        plan = CifarSuite(quick=TINY).plans(BenchSetting(data=data, cache=tmp_path, quick=True), seed)[0]
        return plan, plan.build(start_compute(1), Silent())

    plan, arena = again(0)
    assert plan.key == plans[0].key
    assert torch.equal(arena.problem.inputs, wrn.problem.inputs)
    assert arena.problem.outliers is not None
    assert wrn.problem.outliers is not None
    assert torch.equal(arena.problem.outliers, wrn.problem.outliers)
    plan, arena = again(1)
    assert plan.key != plans[0].key
    assert not torch.equal(arena.problem.calibration, wrn.problem.calibration)


@pytest.mark.slow
def test_frozen_features_describe_the_same_images(plans: list[BenchPlan], wrn: Arena) -> None:
    arena = plans[1].build(start_compute(1), Silent())
    assert arena.problem.inputs.shape == (1, 54, 1280)
    assert torch.equal(arena.problem.targets, wrn.problem.targets)
    assert arena.ood_sets.keys() == wrn.ood_sets.keys()
    assert arena.ood_sets["digits"].inputs.shape == (4, 1280)
    assert torch.isfinite(arena.test).all()
    assert arena.test.std(0).mean() > 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("cifar10/train.zip", r"train\.zip is missing: the suite cifar10 reads CIFAR-10 from it, as <class>/<n>\.jpg"),
        ("clothing/test", r"clothing/test is not a folder"),
        ("outliers", r"outliers is not a folder"),
    ],
)
def test_missing_data_is_one_sentence(data: Path, tmp_path: Path, missing: str, message: str) -> None:
    for part in ("cifar10/train.zip", "cifar10/test.zip", "produce", "packages", "clothing", "outliers"):
        if missing != part and missing.split("/")[0] != part:
            link = tmp_path / "data" / part
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(data / part)
    with pytest.raises(InputError, match=message):
        CifarSuite().plans(BenchSetting(data=tmp_path / "data", cache=tmp_path), 0)


@pytest.mark.parametrize("content", [b"no zip", b""])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.zip"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path} cannot be read: ")):
        cifar_data.Archive(path).read()


def test_an_archive_without_classes_or_with_a_broken_image_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/0.jpg", b"no image")
    with pytest.raises(InputError, match="at least two classes"):
        cifar_data.Archive(path).read()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("two/0.jpg", b"no image")
    with pytest.raises(InputError, match=r"one/0\.jpg: not an image of a supported type"):
        cifar_data.Archive(path).read()


def test_patches_are_seeded_squares_of_photos(data: Path) -> None:
    photos = cifar_data.outlier_photos(data / "outliers")
    assert [photo.path.stem for photo in photos] == ["mine", "n02669723_gown", "n07753592_banana"]
    first = cifar_data.patches(photos, 3, seed=0)
    assert first.shape == (9, 3, 32, 32)
    assert torch.equal(first, cifar_data.patches(photos, 3, seed=0))
    assert not torch.equal(first, cifar_data.patches(photos, 3, seed=1))
    assert not torch.equal(first[0], first[1])
