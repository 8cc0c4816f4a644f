"""`explain=true` on every way to ask: which scores decided, and the nearest training photos."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import oodguard
from oodguard.clients import AsyncClient, Client
from oodguard.clients.samples import read_samples
from oodguard.core.answers import FlaggedSample, PredictResponse
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.load_tests.gateway import Gateway
from oodguard.server.keys import digest, new_key
from tests.nearby import Nearby

INFER = "/v2/models/discs/infer"
PNG = {"content-type": "image/png"}


def upload(client: Any, images: list[bytes], query: str = "") -> Any:
    return client.post(f"/predict{query}", files=[("image", (f"{i}.jpg", one)) for i, one in enumerate(images)])


def timeless(answer: Any) -> bytes:
    """The bytes of an answer up to its timing."""
    assert answer.status_code == 200, answer.text
    return bytes(answer.content).split(b'"timing_ms"')[0]


@pytest.fixture
def images(golden: list[bytes], strangers: Path, nearby: Nearby) -> list[bytes]:
    """Photos of all kinds: for calibration, to train on, and strangers."""
    noise = sorted(strangers.rglob("*.png"))[:2]
    return [*golden[:3], *(path.read_bytes() for path in (*nearby.files()[:2], *noise))]


def test_predict_names_scores_and_photos(client: Any, images: list[bytes], nearby: Nearby) -> None:
    answer = PredictResponse.model_validate_json(upload(client, images, "?explain=true&accept=0.9").content)
    explained = [prediction.explanation for prediction in answer.predictions]
    nearby.require(images, explained)
    calibration = nearby.run.record.calibration
    for prediction, explanation in zip(answer.predictions, explained, strict=True):
        assert explanation is not None
        terms = [part.term for part in explanation.families]
        assert terms == sorted(terms, reverse=True)
        assert explanation.decided_by == explanation.families[0].family
        values = {name: np.array([score.value]) for name, score in prediction.scores.items()}
        fused = calibration.fusion.score(calibration.curves, values)[0]
        assert np.logaddexp.reduce(terms) == pytest.approx(fused, abs=1e-9)
        assert {part.name for part in explanation.scores} == set(calibration.fusion.scores)
        for part in explanation.scores:
            assert part.percentile == prediction.scores[part.name].percentile
    # A training photo is nearest to itself.
    for prediction, own in zip(answer.predictions[3:5], nearby.own, strict=False):
        assert prediction.explanation is not None
        assert prediction.explanation.neighbours[0].sha256 == own.sha256
        assert prediction.explanation.neighbours[0].distance < 5e-3


def test_who_does_not_ask_gets_what_there_was(client: Any, images: list[bytes]) -> None:
    # One by one: the last digits of several depend on the batches that they form.
    for image in images[::3]:
        alone = upload(client, [image])
        assert b"explanation" not in alone.content
        assert timeless(upload(client, [image], "?explain=false")) == timeless(alone)
    plain = upload(client, images)
    asked = upload(client, images, "?explain=true").json()["predictions"]
    without = [{key: value for key, value in one.items() if key != "explanation"} for one in asked]
    assert [list(one) for one in without] == [list(one) for one in plain.json()["predictions"]]
    assert [one["label"] for one in without] == [one["label"] for one in plain.json()["predictions"]]


@pytest.mark.parametrize("query", ["?explain=yes", "?explain=", "?explain=true&explain=true", "?explain=1"])
def test_another_word_than_true_and_false_is_refused(client: Any, images: list[bytes], query: str) -> None:
    answer = upload(client, images[:1], query)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "explain must be true or false" in answer.json()["detail"]


def test_openvino_names_the_same_photos(start: Any, images: list[bytes], nearby: Nearby) -> None:
    client = start(settings_engine="openvino")
    found = upload(client, images, "?explain=true").json()["predictions"]
    nearby.require(images, [one["explanation"] for one in found])


def test_a_bad_image_among_explained_ones(client: Any, images: list[bytes], nearby: Nearby) -> None:
    answer = upload(client, [images[0], b"junk", images[5]], "?explain=true").json()
    assert [one["index"] for one in answer["errors"]] == [1]
    nearby.require([images[0], images[5]], [one["explanation"] for one in answer["predictions"]])


def inference(images: list[bytes], **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}], **more}


@pytest.mark.parametrize("ask", [{"parameters": {"explain": True}}, {"outputs": [{"name": "explanation"}]}])
def test_open_inference_has_an_output_for_it(
    client: Any, images: list[bytes], nearby: Nearby, ask: dict[str, Any]
) -> None:
    tensors = {one["name"]: one for one in client.post(INFER, json=inference(images, **ask)).json()["outputs"]}
    found = tensors["explanation"]
    assert (found["datatype"], found["shape"]) == ("BYTES", [len(images)])
    nearby.require(images, [json.loads(text) for text in found["data"]])
    usual = client.post(INFER, json=inference(images[:1], parameters={"explain": False})).json()["outputs"]
    assert "explanation" not in [one["name"] for one in usual]
    wrong = client.post(INFER, json=inference(images[:1], parameters={"explain": "yes"}))
    assert wrong.status_code == 422
    assert "explain is true or false" in wrong.json()["error"]


def test_open_inference_explains_the_images_that_can_be_used(client: Any, images: list[bytes]) -> None:
    message = inference([images[0], b"junk"], outputs=[{"name": "explanation"}, {"name": "error"}])
    found = {one["name"]: one["data"] for one in client.post(INFER, json=message).json()["outputs"]}
    assert json.loads(found["explanation"][0])["neighbours"]
    assert found["explanation"][1] == ""
    assert found["error"][1].startswith("unsupported_type")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_guard_in_this_process(
    bundle: Path, images: list[bytes], nearby: Nearby, engine: Literal["onnxruntime", "openvino"]
) -> None:
    with oodguard.load(bundle, engine=engine, sessions=1, max_batch=2) as guard:
        nearby.require(images, [one.explanation for one in guard.predict(images, explain=True).predictions])
        assert all(one.explanation is None for one in guard.predict(images).predictions)
        streamed = [one.prediction for one in guard.stream(images, explain=True)]
        nearby.require(images, [one.explanation for one in streamed if one])

    async def ask() -> list[Any]:
        async with oodguard.aload(bundle, engine=engine, sessions=1) as guard:
            found = [one.explanation for one in (await guard.predict(images[:2], explain=True)).predictions]
            return found + [
                one.prediction.explanation async for one in guard.stream(images[2:], explain=True) if one.prediction
            ]

    nearby.require(images, asyncio.run(ask()))


def test_both_clients_ask_for_it(serving: Gateway, images: list[bytes], nearby: Nearby) -> None:
    with Client(serving.url) as client:
        nearby.require(images, [one.explanation for one in client.predict(images, explain=True).predictions])
        assert client.predict(images[:1]).predictions[0].explanation is None
        nearby.require(
            images, [one.prediction.explanation for one in client.stream(images, explain=True) if one.prediction]
        )

    async def ask() -> list[Any]:
        async with AsyncClient(serving.url) as client:
            found = [one.explanation for one in (await client.predict(images[:2], explain=True)).predictions]
            return found + [
                one.prediction.explanation async for one in client.stream(images[2:], explain=True) if one.prediction
            ]

    nearby.require(images, asyncio.run(ask()))


def test_thumbnails_are_served_by_the_photos_hash(start: Any, pictured: Path, golden: list[bytes]) -> None:
    client = start(folder=pictured)
    assert client.get("/model").json()["thumbnails"] is True
    (prediction,) = upload(client, golden[:1], "?explain=true").json()["predictions"]
    for neighbour in prediction["explanation"]["neighbours"]:
        answer = client.get(f"/thumbnails/{neighbour['sha256']}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.headers["cache-control"] == "private, max-age=3600, immutable"
        assert Image.open(io.BytesIO(answer.content)).size == (72, 72)
    for other in ("0" * 64, "x", "thumbnails.zip", "..%2fmodel.onnx"):
        assert client.get(f"/thumbnails/{other}").status_code == 404
    assert client.sample('oodguard_requests_total{route="/thumbnails/*",status="200"}') == 3.0


def test_a_bundle_without_thumbnails_says_so(client: Any, nearby: Nearby) -> None:
    answer = client.get(f"/thumbnails/{nearby.run.bank.sha256[0]}")
    assert answer.status_code == 404
    assert "--thumbnails packs them" in answer.json()["detail"]
    assert client.get("/model").json()["thumbnails"] is False


def test_thumbnails_need_a_key_where_predictions_do(start: Any, pictured: Path, nearby: Nearby) -> None:
    key = new_key()
    client = start(folder=pictured, key_hashes=f"alice:{digest(key)}")
    path = f"/thumbnails/{nearby.run.bank.sha256[0]}"
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"x-api-key": key}).status_code == 200
    assert client.private.get(path, headers={"x-api-key": key}).status_code == 404


def test_a_replaced_bundle_takes_its_thumbnails_with_it(
    start: Any, pictured: Path, bundle: Path, nearby: Nearby, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(pictured, folder)
    client = start(folder=folder)
    path = f"/thumbnails/{nearby.run.bank.sha256[0]}"
    assert client.get(path).status_code == 200
    old = client.parts.serving.model.thumbnails
    shutil.rmtree(folder)
    # The file is gone and still open.
    assert client.get(path).status_code == 200
    shutil.copytree(bundle, folder)
    assert client.private.post("/admin/reload").status_code == 200
    assert client.get(path).status_code == 404
    deadline = time.monotonic() + 10
    while old._archive.fp is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert old._archive.fp is None


def test_a_kept_flagged_image_says_why(start: Any, strangers: Path, nearby: Nearby, tmp_path: Path) -> None:
    client = start(sample_dir=tmp_path / "flagged", sample_rate=1.0)
    stranger = next(strangers.rglob("*.png")).read_bytes()
    assert b"explanation" not in client.post("/predict", content=stranger, headers=PNG).content
    client.parts.sampler.close()
    (kept,) = read_samples(tmp_path / "flagged").good
    nearby.require([stranger], [kept.sample.explanation])
    assert FlaggedSample.model_validate_json(kept.sample.model_dump_json()) == kept.sample


def test_a_bundle_without_a_bank_explains_its_scores(
    start: Any, bundle: Path, golden: list[bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = load_manifest(bundle)
    bare = manifest.model_copy(update={"bank": None, "outputs": manifest.outputs[:2]})
    (folder / MANIFEST_FILE).write_text(bare.model_dump_json(), encoding="utf-8")
    (prediction,) = upload(start(folder=folder), golden[:1], "?explain=true").json()["predictions"]
    assert prediction["explanation"]["neighbours"] == []
    assert prediction["explanation"]["scores"]
