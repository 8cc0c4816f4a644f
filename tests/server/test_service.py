"""Readiness, engine failures, metrics, and what the server must not import."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.errors import FormatError
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.verdict import Outputs
from oodguard.load_tests.process import wait_until
from oodguard.server.app import create_gateway
from oodguard.server.engines.base import Batch
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.golden import broken_promise
from oodguard.server.settings import ServeSettings


def post(client: Any, *images: bytes) -> Any:
    return client.post("/predict", files=[("image", ("x", image)) for image in images])


def test_ready_after_the_golden_images_agreed(client: Any) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["model"] == {"name": "discs", "version": "7"}
    assert client.sample("oodguard_ready") == 1.0


@pytest.mark.parametrize("field", ["label", "scores"])
def test_not_ready_when_a_golden_expectation_is_not_met(bundle: Path, tmp_path: Path, start: Any, field: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    golden = raw["golden"][0]
    if field == "label":
        golden["label"] = next(c for c in raw["classes"] if c != golden["label"])
    else:
        golden["scores"][0] += 1.0
        # So that the numbers of the manifest still fit each other.
        golden["ood_score"] = golden["threshold"] = None
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))
    client = start(folder=folder)
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert client.get("/health/live").status_code == 200
    assert client.sample("oodguard_ready") == 0.0
    refused = post(client, b"any")
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")


@pytest.mark.parametrize("change", ["is_ood", "threshold", "accept", "curve"])
def test_thresholds_and_calibration_that_were_changed_are_refused(
    bundle: Path, tmp_path: Path, start: Any, change: str
) -> None:
    """A stranger would pass otherwise, and every hash fits."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    golden = raw["golden"][0]
    match change:
        case "is_ood":
            golden["is_ood"] = not golden["is_ood"]
        case "threshold":
            golden["threshold"] *= 100
        case "accept":
            raw["targets"]["accept"] = 0.6
        case "curve":
            curve = (raw["calibration"]["answering"] or raw["calibration"])["curve"]
            curve["values"] = [100 * value for value in curve["values"]]
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="one of them was changed"):
        start(folder=folder)


def test_strangers_among_the_golden_images_must_be_flagged(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    strange = [golden for golden in manifest.golden if not golden.exact]
    assert strange
    assert all(golden.is_ood for golden in strange)
    assert any(not golden.is_ood for golden in manifest.golden)
    outputs = Outputs(
        probabilities=np.array([golden.probabilities for golden in strange], np.float32),
        scores=np.array([golden.scores for golden in strange], np.float32) * np.float32(0.9),
    )
    # Other scores are no defect, that they pass is.
    assert broken_promise(manifest, strange, outputs) is None
    quiet = next(golden for golden in manifest.golden if not golden.is_ood)
    passing = outputs.model_copy(update={"scores": np.array([quiet.scores] * len(strange), np.float32)})
    assert "verdict on" in (broken_promise(manifest, strange, passing) or "")


def test_a_failed_batch_is_one_clear_500_and_the_next_request_works(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake)
    fake.fail_next = True
    answer = post(client, picture())
    assert (answer.status_code, answer.json()["code"]) == (500, "engine_failed")
    assert "Traceback" not in answer.text
    assert post(client, picture()).status_code == 200
    assert client.sample("oodguard_engine_errors_total") == 1.0


def test_an_engine_that_fails_on_every_image_turns_readiness_red_until_it_works(
    start: Any, fake: FakeEngine, picture: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(engine=fake)
    fake.broken = True
    with caplog.at_level(logging.WARNING):
        assert [post(client, picture()).status_code for _ in range(3)] == 3 * [500]
        wait_until(lambda: client.get("/health/ready").status_code == 503, 10)
        refused = post(client, picture())
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert client.get("/health/live").status_code == 200
        assert caplog.text.count("inference failed") == 1
        assert "the engine is broken" in caplog.text
        assert caplog.text.count("not ready: inferences fail") == 1
        fake.broken = False
        wait_until(lambda: client.get("/health/ready").status_code == 200, 10)
        assert "ready again" in caplog.text
    assert post(client, picture()).status_code == 200
    # One failure among answers is no reason to doubt.
    fake.fail_next = True
    assert [post(client, picture()).status_code for _ in range(2)] == [500, 200]
    assert client.get("/health/ready").status_code == 200


def test_an_image_that_the_engine_cannot_take_does_not_stop_the_others(
    start: Any, fake: FakeEngine, picture: Any
) -> None:
    """The golden images are answered: the engine works."""
    client = start(engine=fake)
    for _ in range(7):
        fake.fail_next = True
        assert post(client, picture()).status_code == 500
    time.sleep(0.2)
    assert client.get("/health/ready").status_code == 200
    assert post(client, picture()).status_code == 200


@pytest.mark.parametrize("fault", ["rows", "range", "nan", "columns"])
def test_outputs_that_cannot_be_right_are_a_failed_inference(
    fault: str, start: Any, fake: FakeEngine, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(engine=fake)
    whole = fake.infer

    async def faulty(images: Batch) -> Outputs:
        found = await whole(images)
        match fault:
            case "rows":
                return found.rows(np.zeros(len(images) + 1, np.int64))
            case "range":
                return found.model_copy(update={"probabilities": found.probabilities + np.float32(1.0)})
            case "nan":
                return found.model_copy(update={"scores": found.scores * np.float32(np.nan)})
            case _:
                return found.model_copy(update={"scores": found.scores[:, 1:]})

    monkeypatch.setattr(fake, "infer", faulty)
    answer = post(client, picture())
    assert (answer.status_code, answer.json()["code"]) == (500, "engine_failed")
    assert client.sample("oodguard_engine_errors_total") == 1.0


def test_a_slow_engine_is_a_504_not_a_hang(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, request_timeout=0.05)
    with client.held(fake):
        answer = post(client, picture())
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_missed")


def test_a_dead_engine_turns_readiness_red(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake)
    fake._closed = True
    assert post(client, picture()).status_code == 503
    assert client.get("/health/ready").status_code == 503


def test_an_unexpected_exception_shows_no_internals(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake)

    async def broken(images: Any) -> Any:
        raise RuntimeError("secret internals")

    fake.infer = broken  # type: ignore[method-assign]
    answer = post(client, picture())
    assert (answer.status_code, answer.json()["code"]) == (500, "engine_failed")
    assert "secret" not in answer.text


def test_large_requests_run_in_chunks_and_keep_their_order(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake, max_batch=4)
    fake.seen.clear()
    colours = ["black", "white"] * 5
    pool = ThreadPoolExecutor(1)
    with pool, client.held(fake):
        answering = pool.submit(post, client, *[picture(c) for c in colours])
        # While the first batch runs, the images of two batches have their turn: decoded, all but the first wait.
        wait_until(lambda: len(client.parts.serving.model.batcher._queue) == 7, 30)
    answer = answering.result()
    # The first image meets an idle engine and does not wait; the others form batches.
    assert sum(fake.seen) == 10
    assert max(fake.seen) == 4
    labels = [p["label"] for p in answer.json()["predictions"]]
    assert labels == ["amber", "plum"] * 5


def test_metrics_count_what_happened(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake)
    before = client.sample('oodguard_predictions_total{is_ood="false",label="plum"}')
    assert before == 0.0
    post(client, picture("white"), picture("white"), b"junk")
    post(client, b"junk")
    text = client.private.get("/metrics").text
    total = sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("oodguard_predictions_total{"))
    assert total == 2
    assert client.sample('oodguard_rejected_total{code="unsupported_type"}') == 2.0
    assert client.sample('oodguard_requests_total{route="/predict",status="200"}') == 1.0
    assert client.sample('oodguard_requests_total{route="/predict",status="415"}') == 1.0


def test_a_graph_that_does_not_fit_its_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    raw["input"]["shape"][1] = raw["input"]["shape"][2] = 99
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="does not fit its manifest: images"):
        create_gateway(ServeSettings(bundle=folder))


def test_the_server_imports_no_training_library() -> None:
    code = (
        "import sys, oodguard.server.app, oodguard.cli.serve, oodguard.clients\n"
        "print([m for m in ('torch', 'timm', 'sklearn', 'scipy', 'onnx') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
