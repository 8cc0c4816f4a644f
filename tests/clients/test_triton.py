"""The Triton client, and tritonclient alone, against a real Triton."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.clients.triton import AsyncTritonClient, TritonClient
from oodguard.core.answers import PredictResponse
from oodguard.core.errors import FormatError, InputError
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.load_tests.real_triton import Triton
from tests.nearby import Nearby
from tests.packages import ROOT
from tests.test_documents import blocks


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


def images(bundle: Path, manifest: Manifest) -> list[Path]:
    return [bundle / golden.path for golden in manifest.golden]


def assert_promised(answer: PredictResponse, manifest: Manifest) -> None:
    assert (answer.model.name, answer.model.version) == ("discs", "7")
    for golden, found in zip(manifest.golden, answer.predictions, strict=True):
        assert (found.label, found.is_ood) == (golden.label, golden.is_ood)
        assert [score.value for score in found.scores.values()] == pytest.approx(golden.scores, rel=1e-4, abs=1e-4)
        assert found.file == Path(golden.path).name


def test_the_golden_images_are_answered_as_promised(triton: Triton, bundle: Path, manifest: Manifest) -> None:
    with TritonClient(triton.address, model="discs") as client:
        assert client.manifest().graph_sha256 == manifest.graph_sha256
        assert_promised(client.predict(images(bundle, manifest)), manifest)
        strict = client.predict(images(bundle, manifest)[:1], accept=0.5, top_k=2)
        sure = client.predict(images(bundle, manifest), coverage=0.5, max_error=0.999)
        every = client.predict(images(bundle, manifest), coverage=0.999)
    assert strict.accept == 0.5
    assert (sure.coverage, sure.max_error, every.coverage) == (0.5, 0.999, 0.999)
    for one in sure.predictions:
        assert one.decision == ("stranger" if one.is_ood else "answer")
    # So few photos promise a coverage of 99.9 % with every class only.
    for one in every.predictions:
        assert one.labels == (() if one.is_ood else tuple(each.label for each in one.top_k))
    assert len(strict.predictions[0].top_k) == 2
    assert strict.timing_ms.inference > 0


def test_the_page_of_the_clients(triton: Triton, bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    found = [block.body for block in blocks(ROOT / "docs" / "CLIENT.md") if "TritonClient(" in block.body]
    assert len(found) == 1
    for name, golden in zip(("photo.jpg", "other.jpg"), images(bundle, manifest)[:2], strict=True):
        shutil.copyfile(golden, tmp_path / name)
    program = found[0].replace("localhost:8001", triton.address).replace('"photos"', '"discs"')
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    first, last = ran.stdout.splitlines()
    assert first.startswith("7 (Prediction(")
    assert "decided_by=" in last


def test_both_clients_explain(triton: Triton, bundle: Path, manifest: Manifest, nearby: Nearby) -> None:
    paths = [*images(bundle, manifest)[:2], nearby.files()[0]]
    sent = [path.read_bytes() for path in paths]
    with TritonClient(triton.address, model="discs") as client:
        nearby.require(sent, [one.explanation for one in client.predict(paths, explain=True).predictions])
        assert all(one.explanation is None for one in client.predict(paths).predictions)

    async def ask() -> PredictResponse:
        async with AsyncTritonClient(triton.address, model="discs") as client:
            return await client.predict(paths, explain=True)

    nearby.require(sent, [one.explanation for one in asyncio.run(ask()).predictions])


def test_asynchronously_and_in_more_than_one_batch(triton: Triton, bundle: Path, manifest: Manifest) -> None:
    async def ask() -> tuple[PredictResponse, PredictResponse]:
        async with AsyncTritonClient(triton.address, model="discs", version=7) as client:
            one = await client.predict(images(bundle, manifest))
            return one, await client.predict(images(bundle, manifest)[:1] * 19)

    one, many = asyncio.run(ask())
    assert_promised(one, manifest)
    assert [prediction.index for prediction in many.predictions] == list(range(19))
    assert len({prediction.label for prediction in many.predictions}) == 1


def test_a_bad_image_costs_the_others_nothing(triton: Triton, bundle: Path, manifest: Manifest) -> None:
    good = (bundle / manifest.golden[0].path).read_bytes()
    with TritonClient(triton.address, model="discs") as client:
        answer = client.predict([b"junk", good])
        assert [prediction.index for prediction in answer.predictions] == [1]
        assert [(error.index, error.code) for error in answer.errors] == [(0, "unsupported_type")]
        with pytest.raises(ServerProblem, match="415"):
            client.predict([b"junk"])
        with pytest.raises(ServerProblem, match="accept must be"):
            client.predict([good], accept=2.0)
        with pytest.raises(ServerProblem, match="No image"):
            client.predict([])
        with pytest.raises(InputError, match="cannot be read"):
            client.predict([bundle / "absent.png"])


def test_pil_images_and_arrays_are_judged_as_their_pixels(triton: Triton, bundle: Path, manifest: Manifest) -> None:
    with Image.open(bundle / manifest.golden[0].path) as opened:
        image = opened.convert("RGB")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    with TritonClient(triton.address, model="discs") as client:
        encoded, *others = client.predict([stream.getvalue(), image, np.asarray(image)]).predictions
        with pytest.raises(InputError, match="uint8"):
            client.predict([np.asarray(image, dtype=float)])  # type: ignore[list-item]
    assert [found.file for found in (encoded, *others)] == ["0", "1.png", "2.png"]
    assert encoded.quality is not None
    for found in others:
        assert found.label == encoded.label
        assert found.quality == encoded.quality
        for name, score in found.scores.items():
            assert score.value == pytest.approx(encoded.scores[name].value, rel=1e-4, abs=1e-4)


def test_what_is_not_there_is_a_sentence(triton: Triton) -> None:
    with (
        TritonClient("127.0.0.1:9", model="discs") as client,
        pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"),
    ):
        client.predict([b"x"])
    with TritonClient(triton.address, model="cats") as client, pytest.raises(ServerUnreachable, match="cats"):
        client.manifest()
    with (
        TritonClient(triton.address, model="discs", version=9) as client,
        pytest.raises(FormatError, match=r"oodguard\.9"),
    ):
        client.manifest()


def test_the_raw_example_judges_as_we_do(
    triton: Triton, bundle: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.raw_triton import main

    main([triton.address, "discs", *map(str, images(bundle, manifest))])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with TritonClient(triton.address, model="discs") as client:
        expected = client.predict(images(bundle, manifest)).predictions
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["is_ood"]) == (other.label, other.is_ood)
        assert one["ood_score"] == pytest.approx(other.ood_score, rel=1e-3, abs=1e-4)
        assert one["threshold"] == pytest.approx(other.threshold)
