"""Whether a picture is fit: the same on every route, in metrics, rows and sidecars; it moves no verdict."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter
from tritonclient.grpc import InferenceServerClient, InferInput

import oodguard
from oodguard.cli.main import run as command
from oodguard.clients import Client
from oodguard.clients.samples import read_samples
from oodguard.core.images import picture_of
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.quality import TRAITS, QualityScale, Unfitness, load_picture
from oodguard.load_tests.gateway import Gateway
from oodguard.server.recalibration import RecalibrateOptions, recalibrate

REASONS = ("none", *Unfitness)


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A test photo as it is, and spoilt in each way, by the reason that must be given."""
    photo = Image.open(sorted((photos / "test").rglob("*.jpg"))[3])
    light = np.asarray(photo, dtype=np.float64)
    spoilt = {
        "none": photo,
        "blurred": photo.filter(ImageFilter.GaussianBlur(3)),
        "dark": Image.fromarray((light * 0.2).astype(np.uint8)),
        "overexposed": Image.fromarray(np.clip(light * 1.6, 0, 255).astype(np.uint8)),
        "small": photo.resize((20, 20)),
    }
    folder = tmp_path_factory.mktemp("pictures")
    for reason, image in spoilt.items():
        (folder / f"{reason}.png").write_bytes(encoded(image))
    return {reason: folder / f"{reason}.png" for reason in REASONS}


@pytest.fixture(scope="module")
def old(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as it was written before there was a scale of quality."""
    folder = tmp_path_factory.mktemp("old") / "discs"
    shutil.copytree(bundle, folder)
    document = json.loads((bundle / MANIFEST_FILE).read_text())
    del document["calibration"]["quality"]
    (folder / MANIFEST_FILE).write_text(json.dumps(document))
    return folder


def counted(client: Any, is_ood: bool) -> dict[str, float]:
    series = 'oodguard_quality_total{{is_ood="{}",reason="{}"}}'
    return {reason: client.sample(series.format(str(is_ood).lower(), reason)) for reason in REASONS}


def test_training_measures_its_photos(bundle: Path, photos: Path) -> None:
    manifest = load_manifest(bundle)
    paths = sorted((photos / "train").rglob("*.jpg"))
    scale = QualityScale.fit(load_picture(path.read_bytes(), manifest.preprocessing).traits for path in paths)
    assert manifest.calibration.quality == scale
    assert scale.blur.samples == 180


def test_each_spoilt_picture_has_its_reason_and_is_counted(start: Any, pictures: dict[str, Path]) -> None:
    client = start()
    answer = client.post("/predict", files=[("image", path.read_bytes()) for path in pictures.values()]).json()
    found = [one["quality"] for one in answer["predictions"]]
    assert [one.get("reason", "none") for one in found] == list(REASONS)
    trait = {"blurred": "blur", "dark": "darkness", "overexposed": "overexposure", "small": "smallness"}
    for reason, one in zip(REASONS[1:], found[1:], strict=True):
        assert one[trait[reason]] == 100
    assert set(found[0]) == set(TRAITS)
    assert all(one["blur"] == round(one["blur"], 1) for one in found)
    flagged = [one["is_ood"] for one in answer["predictions"]]
    for is_ood in (True, False):
        expected = {reason: float(flag is is_ood) for reason, flag in zip(REASONS, flagged, strict=True)}
        assert counted(client, is_ood) == expected


def test_quality_moves_no_number_of_the_verdict(bundle: Path, old: Path, pictures: dict[str, Path], start: Any) -> None:
    paths = list(pictures.values())
    with oodguard.load(bundle) as guard, oodguard.load(old) as before:
        found, plain = guard.predict(paths).predictions, before.predict(paths).predictions
    assert [one.model_copy(update={"quality": None}) for one in found] == list(plain)
    client = start(folder=old)
    answer = client.post("/predict", content=paths[0].read_bytes()).json()
    assert "quality" not in answer["predictions"][0]
    assert not any(counted(client, False).values())
    assert not any(counted(client, True).values())
    assert "quality" not in {one["name"] for one in client.get("/v2/models/discs").json()["outputs"]}


def test_every_way_to_ask_gives_the_same(
    server: Callable[..., Gateway], bundle: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    paths = list(pictures.values())
    running = server("--grpc-port", "0")
    tensor = InferInput("image", [len(paths)], "BYTES")
    tensor.set_data_from_numpy(np.array([path.read_bytes() for path in paths], dtype=object))
    with InferenceServerClient(running.rpc) as client:
        answer = client.infer("discs", [tensor])
    with oodguard.load(bundle) as guard, Client(running.url) as asking:
        mine = [one.quality for one in guard.predict(paths).predictions]
        opened = [one.quality for one in guard.predict([Image.open(path) for path in paths]).predictions]
        asked = [one.quality for one in asking.predict(paths).predictions]
    assert mine == opened == asked
    percentiles = [[getattr(one, trait) for trait in TRAITS] for one in mine if one is not None]
    assert answer.as_numpy("quality").tolist() == pytest.approx(np.array(percentiles, dtype=np.float32))
    assert [one.decode() or "none" for one in answer.as_numpy("quality_reason")] == list(REASONS)
    source = tmp_path / "images.txt"
    source.write_text("".join(f"{path}\n" for path in paths))
    for name in ("r.parquet", "r.csv"):
        assert command(["score", str(bundle), str(source), "--out", str(tmp_path / name)]) == 0
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["quality_reason"] or "none" for row in rows] == list(REASONS)
    assert [[row[f"quality_{trait}"] for trait in TRAITS] for row in rows] == pytest.approx(
        np.array(percentiles, dtype=np.float32)
    )
    with (tmp_path / "r.csv").open() as stream:
        assert [row["quality_reason"] for row in csv.DictReader(stream)] == ["", *Unfitness]


def test_pixels_have_no_size_and_bad_images_no_quality(start: Any, bundle: Path, pictures: dict[str, Path]) -> None:
    preprocessing = load_manifest(bundle).preprocessing
    pixels = np.stack([picture_of(path, preprocessing).pixels for path in pictures.values()])
    client = start()

    def outputs(name: str, datatype: str, data: list[Any], shape: list[int]) -> dict[str, list[Any]]:
        tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
        body = {"inputs": [tensor], "outputs": [{"name": one} for one in ("quality", "quality_reason", "error")]}
        answer = client.post("/v2/models/discs/infer", json=body).json()
        return {one["name"]: one["data"] for one in answer["outputs"]}

    found = outputs("pixels", "UINT8", pixels.ravel().tolist(), list(pixels.shape))
    rows = np.reshape(np.array(found["quality"], dtype=object), (5, 4))
    assert rows[:, 3].tolist() == [None] * 5
    # An enlarged picture is blurred, too.
    assert dict(zip(REASONS, found["quality_reason"], strict=True)) == {
        "none": "",
        "small": "blurred",
        "dark": "dark",
        "overexposed": "overexposed",
        "blurred": "blurred",
    }
    images = [base64.b64encode(path.read_bytes()).decode() for path in (pictures["dark"],)] + ["AAAA"]
    found = outputs("image", "BYTES", images, [2])
    assert found["quality_reason"] == ["dark", ""]
    assert found["quality"][4:] == [None] * 4
    assert found["error"][1]


def test_a_sidecar_says_it(start: Any, pictures: dict[str, Path], strangers: Path, tmp_path: Path) -> None:
    client = start(sample_dir=tmp_path, sample_rate=1.0)
    stranger = Image.open(next(strangers.rglob("*.png"))).convert("RGB")
    images = [encoded(stranger), encoded(Image.fromarray((np.asarray(stranger) * 0.1).astype(np.uint8)))]
    answer = client.post("/predict", files=[("image", image) for image in images]).json()
    client.parts.sampler.close()
    said = {one["ood_score"]: one["quality"].get("reason") for one in answer["predictions"] if one["is_ood"]}
    kept = {one.sample.ood_score: one.sample.quality for one in read_samples(tmp_path).good}
    assert {score: quality and quality.reason for score, quality in kept.items()} == said
    assert "dark" in said.values()


def test_recalibrated_on_a_dark_camera_its_photos_are_not_dark(
    bundle: Path, photos: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    for index, path in enumerate(sorted((photos / "test").rglob("*.jpg"))):
        light = np.asarray(Image.open(path), dtype=np.float64) * 0.2
        (camera / f"{index}.png").write_bytes(encoded(Image.fromarray(light.astype(np.uint8))))
    copy = Path(shutil.copytree(bundle, tmp_path / "discs"))
    given = RecalibrateOptions(bundle=copy, images=(str(camera),), source="cellar")
    recalibrate(given, progress=lambda done, total: None)
    with oodguard.load(copy) as guard:
        (usual,) = guard.predict(pictures["dark"]).predictions
        (cellar,) = guard.predict(pictures["dark"], source="cellar").predictions
    assert usual.quality is not None
    assert usual.quality.reason is Unfitness.DARK
    assert cellar.quality is not None
    assert cellar.quality.reason is not Unfitness.DARK
    assert cellar.quality.darkness < 100
