from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from oodguard.core.errors import FormatError, ImageError
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.review.features import ByFeature, FeatureGraph, feature_name
from oodguard.review.look_alikes import LookAlikes
from oodguard.review.measures import ByLook, Level, Measurement
from oodguard.review.pictures import FlaggedPictures
from oodguard.training.backbone.network import Normalised
from tests.conftest import draw
from tests.nearby import Nearby
from tests.review.folders import put


def test_the_graph_gives_the_feature_that_training_has(bundle: Path, nearby: Nearby, photos: Path) -> None:
    manifest = load_manifest(bundle)
    paths = sorted((photos / "test").rglob("*.jpg"))[::9]
    pixels = [load_pixels(path.read_bytes(), manifest.preprocessing) for path in paths]
    found = FeatureGraph(bundle, manifest, threads=1).run(pixels)
    with torch.no_grad():
        trunk = Normalised(nearby.run.trunk, nearby.run.record.preprocessing).eval()
        wanted = nearby.run.tail(trunk(torch.from_numpy(np.stack(pixels)))).flatten(1).numpy()
    np.testing.assert_allclose(found.features, wanted, atol=1e-4)
    distances = nearby.distances([path.read_bytes() for path in paths])
    for row, named in enumerate(found.neighbours):
        nearest = np.sort(distances[row])[: len(named)]
        assert len(named) == 3
        np.testing.assert_allclose([one.distance for one in named], nearest, atol=1e-4)


def test_a_graph_without_a_first_layer_of_heads_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    assert feature_name(model) in {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        node.input[:] = [f"other_{name}" if name.endswith("heads.wide") else name for name in node.input]
    with pytest.raises(FormatError, match="leave out --bundle"):
        feature_name(model)


def test_pictures_of_one_unseen_kind_are_one_decision(bundle: Path, tmp_path: Path) -> None:
    """Stripes that the guard has never seen, among discs that it knows, in groups of pictures that are very alike."""
    for number in range(40):
        put(tmp_path, f"disc-{number}.jpg", picture=draw((30, 160, 90) if number % 2 else (230, 150, 20), 900 + number))
        put(tmp_path, f"stripes-{number}.jpg", picture=_stripes(number))
    pictures = FlaggedPictures(tmp_path)
    alike = LookAlikes(pictures, ByFeature(bundle, load_manifest(bundle), threads=1), cache=None)
    alike.start()
    alike.wait(120)
    kinds = [{pictures.items[n].name.split("-")[0] for n in group} for group in alike.regroup(Level.FINE).groups]
    assert (alike.found.measured, alike.found.finished, alike.found.problem) == (80, True, "")
    assert sum(len(group) for group in alike.found.groups) == 80
    assert sum(kind == {"stripes"} for kind in kinds) <= 3
    assert all(len(kind) == 1 for kind in kinds)
    assert alike.neighbours(0)
    assert alike.regroup(Level.OFF).groups == tuple((number,) for number in range(80))


def _stripes(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 60, (72, 72, 3), dtype=np.uint8)
    found[:, :: 6 + seed % 3] = 255
    found[:, 1 :: 6 + seed % 3] = 255
    return Image.fromarray(found)


def test_without_a_bundle_shots_of_one_scene_are_together_and_others_apart(tmp_path: Path) -> None:
    scenes = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (9, 12, 3), dtype=np.uint8)) for n in range(8)]
    for number, scene in enumerate(scenes):
        whole = scene.resize((240, 180), Image.Resampling.BICUBIC)
        put(tmp_path, f"{number}-a.jpg", picture=whole)
        put(tmp_path, f"{number}-b.jpg", picture=whole.crop((4, 3, 236, 178)).resize((120, 90)))
        put(tmp_path, f"{number}-c.jpg", picture=Image.eval(whole, lambda level: int(level * 0.85)))
    pictures = FlaggedPictures(tmp_path)
    alike = LookAlikes(pictures, ByLook(), cache=None)
    alike.start()
    alike.wait(60)
    named = [sorted(pictures.items[number].name for number in group) for group in alike.found.groups]
    assert sorted(named) == [[f"{number}-{shot}.jpg" for shot in "abc"] for number in range(8)]


class Counting(ByLook):
    """Counts what it measures."""

    def __init__(self) -> None:
        self.measured = 0

    def measure(self, pictures: Sequence[bytes]) -> list[Measurement | ImageError]:
        self.measured += len(pictures)
        return super().measure(pictures)


def test_what_was_measured_is_kept_and_what_is_damaged_stands_alone(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / "flagged", f"{number}.jpg", picture=number)
    put(tmp_path / "flagged", "torn.jpg", picture=b"\xff\xd8\xff torn")
    pictures = FlaggedPictures(tmp_path / "flagged")
    torn = next(one.number for one in pictures.items if one.name == "torn.jpg")
    groups = []
    for wanted in (6, 1, 6):
        measure = Counting()
        alike = LookAlikes(pictures, measure, cache=tmp_path / "cache")
        alike.start()
        alike.wait(60)
        groups.append(alike.found.groups)
        assert (measure.measured, alike.found.measured) == (wanted, 6)
        assert (torn,) in alike.found.groups
        assert alike.problem(torn)
        (kept,) = (tmp_path / "cache" / "review").iterdir()
        if wanted == 1:
            # A damaged cache is made anew.
            kept.write_bytes(kept.read_bytes()[:100])
    assert groups[0] == groups[1] == groups[2]


class Failing(ByLook):
    """Meets what a runtime may raise."""

    def measure(self, pictures: Sequence[bytes]) -> list[Measurement | ImageError]:
        raise RuntimeError("out of memory")


def test_a_measure_that_fails_leaves_every_picture_to_be_marked_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, "b.jpg", picture=1)
    alike = LookAlikes(FlaggedPictures(tmp_path), Failing(), cache=None)
    alike.start()
    alike.wait(60)
    assert (alike.found.groups, alike.found.finished) == (((0,), (1,)), True)
    assert alike.found.problem == "look-alikes are not grouped: out of memory"
