"""A guard whose input is broad, padded and BGR goes the whole way: every room has its height, width and channels."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from google.protobuf import text_format
from PIL import Image
from starlette.testclient import TestClient
from torch import nn
from tritonclient.grpc import model_config_pb2 as schema

import oodguard
from oodguard.cli.main import run as command
from oodguard.core.answers import ModelRef
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.core.preprocessing import Preprocessing, load_pixels
from oodguard.export.bundle import export_bundle
from oodguard.export.speed import speeds
from oodguard.export.triton.config import model_config
from oodguard.export.triton.options import TritonOptions
from oodguard.server.app import create_gateway
from oodguard.server.errors import RequestError
from oodguard.server.rpc.messages import parse
from oodguard.server.settings import ServeSettings
from oodguard.training.backbone import sources
from oodguard.training.backbone.network import Backbone
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import BackboneRecord

HEIGHT, WIDTH = 40, 64
HOW = Preprocessing(
    resize=HEIGHT,
    crop=HEIGHT,
    width=WIDTH,
    fit="pad",
    fill=(90, 90, 90),
    channels="bgr",
    scale=1,
    interpolation="lanczos",
    mean=(103.939, 116.779, 123.68),
    std=(57.4, 57.1, 58.4),
)
RAW_TRITON = Path(__file__).parents[1] / "examples" / "raw_triton.py"


class Broad:
    """Two convolutions and a mean, over an input of 40 x 64."""

    def load(self, name: str, *, weights: str, image_size: int | None, tune: bool) -> Backbone:
        trunk = nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.ReLU()).eval()
        tail = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        return Backbone(
            kind="broad",
            name=name,
            source=weights,
            weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
            cut="0",
            width=32,
            preprocessing=HOW,
            trunk=trunk,
            tail=tail,
        )

    def rebuild(self, record: BackboneRecord, preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
        built = self.load(record.name, weights="", image_size=None, tune=True)
        return built.trunk, built.tail


@pytest.fixture(scope="module")
def broad(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported bundle; its graph answered as PyTorch did, or there would be none."""
    folder = tmp_path_factory.mktemp("broad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SOURCES", {**sources.SOURCES, "broad": Broad()})
        train(options.model_copy(update={"backbone": "broad:net", "image_size": None}), folder / "run")
        export_bundle(folder / "run", folder / "bundle", name="broad", with_standalone=True)
    return folder / "bundle"


@pytest.fixture(scope="module")
def manifest(broad: Path) -> Manifest:
    return load_manifest(broad)


@pytest.fixture(scope="module")
def served(broad: Path) -> Iterator[TestClient]:
    with TestClient(create_gateway(ServeSettings(bundle=broad, watch=False)).public) as client:
        yield client


@pytest.fixture(scope="module")
def paths(photos: Path, strangers: Path) -> list[Path]:
    return [*sorted((photos / "test").rglob("*.jpg"))[::5], *sorted(strangers.rglob("*.png"))[:3]]


def test_the_manifest_says_what_enters_the_graph(manifest: Manifest) -> None:
    assert manifest.preprocessing == HOW
    assert manifest.input.shape == ("batch", HEIGHT, WIDTH, 3)


def test_the_server_the_guard_and_offline_scoring_agree(
    broad: Path, served: TestClient, paths: list[Path], tmp_path: Path
) -> None:
    listed = tmp_path / "paths.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))
    assert command(["score", str(broad), str(listed), "--out", str(tmp_path / "found.csv")]) == 0
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with oodguard.load(broad) as guard:
        found = guard.predict(paths).predictions
    for path, row, mine in zip(paths, rows, found, strict=True):
        asked = served.post("/predict", content=path.read_bytes(), headers={"Content-Type": "image/jpeg"})
        theirs = asked.json()["predictions"][0]
        assert (theirs["label"], theirs["is_ood"]) == (mine.label, mine.is_ood)
        assert theirs["ood_score"] == pytest.approx(mine.ood_score, rel=1e-5)
        assert float(row["ood_score"]) == pytest.approx(mine.ood_score, rel=1e-5)


def test_pixels_over_the_open_protocol_have_the_graphs_shape(
    served: TestClient, manifest: Manifest, paths: list[Path]
) -> None:
    described = served.get("/v2/models/broad").json()["inputs"]
    assert {entry["name"]: entry["shape"] for entry in described}["pixels"] == [-1, HEIGHT, WIDTH, 3]
    pixels = np.stack([load_pixels(path.read_bytes(), manifest.preprocessing) for path in paths])

    def asked(values: np.ndarray) -> Any:
        tensor = {"name": "pixels", "shape": list(values.shape), "datatype": "UINT8", "data": values.ravel().tolist()}
        return served.post("/v2/models/broad/infer", json={"inputs": [tensor]})

    found = {tensor["name"]: tensor["data"] for tensor in asked(pixels).json()["outputs"]}
    labels = [served.post("/predict", content=path.read_bytes()).json()["predictions"][0]["label"] for path in paths]
    assert found["label"] == labels
    refused = asked(pixels.transpose(0, 2, 1, 3))
    assert refused.status_code == 400
    assert f"the shape is [N, {HEIGHT}, {WIDTH}, 3]; got [{len(paths)}, {WIDTH}, {HEIGHT}, 3]" in refused.text


def test_a_message_of_as_many_numbers_as_the_images_have_is_unpacked(manifest: Manifest) -> None:
    def parsed(count: int) -> int:
        tensor: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [count, HEIGHT, WIDTH, 3]}
        tensor["contents"] = {"uint_contents": [7] * (count * HEIGHT * WIDTH * 3)}
        body = bytes(pb.ModelInferRequest(model_name="broad", inputs=[tensor]).SerializeToString())
        _, images = parse(body, served=ModelRef(name="broad", version="1"), manifest=manifest, most_images=2)
        return len(images)

    assert parsed(2) == 2
    with pytest.raises(RequestError, match="more than 2 images"):
        parsed(3)


def test_triton_is_told_the_shape(manifest: Manifest) -> None:
    text = model_config("broad", {1: manifest}, {}, ["golden-1"], TritonOptions())
    (image,) = text_format.Parse(text, schema.ModelConfig()).input
    assert list(image.dims) == [HEIGHT, WIDTH, 3]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"fit": "squash", "resize": 46},
        {"fit": "pad", "resize": 52},
        {"fit": "crop", "resize": 46},
        {"fit": "crop", "resize": 30},
        {"fit": "squash", "resize": 30},
        {"width": None, "fit": "crop", "interpolation": "bicubic"},
    ],
)
def test_the_example_for_triton_makes_the_same_pixels(change: dict[str, Any], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("raw_triton", RAW_TRITON)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    how = HOW.model_copy(update=change)
    for size in ((90, 70), (70, 90), (300, 41), (33, 32)):
        noise = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "a.png")
        found = module.load_pixels(tmp_path / "a.png", how.model_dump())
        np.testing.assert_array_equal(found, load_pixels((tmp_path / "a.png").read_bytes(), how))


def test_its_graph_is_timed_on_images_of_its_shape(broad: Path) -> None:
    found = list(speeds([broad], rounds=1, threads=[1]))
    assert [speed.batch for speed in found] == [1, 8]
    assert all(speed.faster == (1.0,) and speed.milliseconds[0] > 0 for speed in found)


def test_the_model_card_says_both_sides(served: TestClient) -> None:
    shown = served.get("/model").json()["preprocessing"]
    assert (shown["crop"], shown["width"], shown["fit"]) == (HEIGHT, WIDTH, "pad")
