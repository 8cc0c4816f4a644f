"""The gateway in front of a real Triton: the same answers, batches that form there, deadlines and refusals."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import CONFIG_FILE, write_repository
from oodguard.load_tests.real_triton import Triton
from tests.nearby import Nearby
from tests.server.collector import Collector

PNG = {"content-type": "image/png"}


@pytest.fixture
def gateway(server: Any, triton: Triton) -> Callable[..., Any]:
    """Start a gateway before the shared Triton."""

    def begin(*flags: str, **more: Any) -> Any:
        return server("--engine", "triton", "--triton-url", triton.address, *flags, **more)

    return begin


@pytest.fixture
def control(triton: Triton) -> Iterator[Any]:
    """Triton's own client."""
    client = grpc_client.InferenceServerClient(triton.address)
    yield client
    client.close()


def files(golden: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{index}.png", image)) for index, image in enumerate(golden)]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Identical verdicts, numbers within 1e-4."""
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["is_ood"]) == (other["label"], other["is_ood"])
        for name, score in other["scores"].items():
            assert one["scores"][name]["is_ood"] == score["is_ood"]
            assert one["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-4, abs=1e-4)
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


@pytest.mark.parametrize("flags", [(), ("--triton-shared-memory",), ("--triton-version", "7")])
def test_the_answers_are_those_of_the_embedded_engine(
    gateway: Any, client: Any, control: Any, golden: list[bytes], flags: tuple[str, ...]
) -> None:
    running = gateway(*flags)
    regions = control.get_system_shared_memory_status().regions
    assert len(regions) == ("--triton-shared-memory" in flags)
    found = httpx.post(f"{running.url}/predict", files=files(golden)).json()
    expected = client.post("/predict", files=files(golden)).json()
    assert_same(found["predictions"], expected["predictions"])
    assert found["model"] == expected["model"]
    assert running.stop() == 0
    assert not control.get_system_shared_memory_status().regions


@pytest.mark.parametrize("flags", [(), ("--triton-model", "discs")])
def test_explanations_come_through_triton(
    gateway: Any, golden: list[bytes], nearby: Nearby, flags: tuple[str, ...]
) -> None:
    running = gateway(*flags, **({"folder": None} if flags else {}))
    images = [*golden[:3], nearby.files()[0].read_bytes()]
    found = httpx.post(f"{running.url}/predict?explain=true", files=files(images)).json()["predictions"]
    nearby.require(images, [one["explanation"] for one in found])
    assert found[3]["explanation"]["neighbours"][0]["sha256"] == nearby.run.bank.sha256[0]
    usual = httpx.post(f"{running.url}/predict", files=files(images)).json()["predictions"]
    assert all("explanation" not in one for one in usual)


def test_without_a_bundle_the_manifest_comes_from_triton(gateway: Any, client: Any, golden: list[bytes]) -> None:
    running = gateway("--triton-model", "discs", folder=None)
    found = httpx.post(f"{running.url}/predict?accept=0.5", files=files(golden)).json()
    expected = client.post("/predict?accept=0.5", files=files(golden)).json()
    assert_same(found["predictions"], expected["predictions"])
    assert (found["model"], found["accept"]) == (expected["model"], 0.5)


def test_a_hundred_clients_are_answered_and_triton_forms_batches(
    gateway: Any, control: Any, golden: list[bytes]
) -> None:
    running = gateway()
    before = batches(control)

    async def crowd() -> Counter[int]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:

            async def one(number: int) -> list[int]:
                image = golden[number % len(golden)]
                sent = [await http.post(f"{running.url}/predict", content=image, headers=PNG) for _ in range(2)]
                return [answer.status_code for answer in sent]

            found = await asyncio.gather(*(one(number) for number in range(100)))
        return Counter(status for statuses in found for status in statuses)

    statuses = asyncio.run(crowd())
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= 100
    grown = {size: count - before[size] for size, count in batches(control).items()}
    assert sum(count for size, count in grown.items() if size > 1) > 0, grown
    assert max(size for size, count in grown.items() if count) > 4, grown


def batches(control: Any) -> Counter[int]:
    """Inferences Triton has run, by batch size."""
    (stats,) = control.get_inference_statistics("discs").model_stats
    return Counter({batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats})


def test_a_full_queue_is_429_and_a_missed_deadline_504(
    server: Any, triton_home: Path, bundle: Path, tmp_path: Path, golden: list[bytes]
) -> None:
    options = TritonOptions(backend="python", threads=1, max_queue=1, max_batch=1)
    write_repository(bundle, tmp_path / "repository", options)
    with Triton(triton_home, tmp_path / "repository", models=["discs"]) as triton:
        running = server("--engine", "triton", "--triton-url", triton.address, "--stall-after", "5")
        answers: list[httpx.Response] = []

        def ask() -> None:
            with httpx.Client(timeout=30) as http:
                answers.extend(http.post(f"{running.url}/predict", content=golden[0], headers=PNG) for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        found = Counter(answer.status_code for answer in answers)
        assert set(found) == {200, 429}, found
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["code"] == "overloaded"
        with triton.frozen():
            began = time.monotonic()
            hurried = {**PNG, "x-request-timeout-ms": "300"}
            answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=hurried, timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (504, "deadline_missed")
            assert 0.3 <= time.monotonic() - began < 2.0
        answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, timeout=30)
        assert answer.status_code == 200


def test_another_graph_is_refused(triton: Triton, newer: Path) -> None:
    code, error = serve(newer, triton)
    assert code == 2
    assert "does not serve the graph of discs version 8" in error
    assert "version 7 is " in error
    assert error.count("\n") == 1


def test_another_shape_is_refused(triton_home: Path, bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "repository", TritonOptions(backend="python"))
    file = tmp_path / "repository" / "discs" / CONFIG_FILE
    config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    config.output[0].dims[0] += 1
    # Triton itself refuses such a model when it warms it up.
    config.ClearField("model_warmup")
    file.write_text(text_format.MessageToString(config))
    with Triton(triton_home, tmp_path / "repository", models=["discs"]) as triton:
        code, error = serve(bundle, triton)
    assert code == 2
    assert "does not fit its manifest: probabilities should be FP32" in error


def serve(bundle: Path, triton: Triton) -> tuple[int, str]:
    """Exit code and last words of a gateway that must not start."""
    command = [sys.executable, "-m", "oodguard.cli", "serve", str(bundle), "--port", "0", "--admin-port", "0"]
    command += ["--engine", "triton", "--triton-url", triton.address, "--triton-model", "discs"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stderr


def test_without_a_bundle_and_without_triton_it_does_not_start(bundle: Path) -> None:
    command = [sys.executable, "-m", "oodguard.cli", "serve", "--port", "0", "--admin-port", "0", "--engine", "triton"]
    command += ["--triton-url", "127.0.0.1:9", "--triton-model", "discs"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 3
    assert "no Triton could be asked for the manifest" in ran.stderr


def test_grpc_on_both_sides(gateway: Any, golden: list[bytes]) -> None:
    running = gateway("--grpc-port", "0")
    images = golden[:4]
    image = grpc_client.InferInput("image", [len(images)], "BYTES")
    image.set_data_from_numpy(np.array(images, dtype=object))
    with grpc_client.InferenceServerClient(running.rpc) as client:
        answer = client.infer("discs", [image])
    expected = httpx.post(f"{running.url}/predict", files=files(images)).json()["predictions"]
    assert [label.decode() for label in answer.as_numpy("label")] == [one["label"] for one in expected]
    assert answer.as_numpy("ood_score").tolist() == pytest.approx(
        [one["ood_score"] for one in expected], rel=1e-3, abs=1e-4
    )


def test_a_trace_has_a_span_for_every_image_sent(gateway: Any, golden: list[bytes]) -> None:
    collector = Collector()
    try:
        running = gateway("--traces-endpoint", collector.url)
        assert httpx.post(f"{running.url}/predict", files=files(golden[:2])).status_code == 200
        assert running.stop() == 0
    finally:
        collector.close()
    names = Counter(span.name for span in collector.spans)
    assert (names["triton"], names["POST /predict"], names["inference"]) == (2, 1, 1)
    assert len({span.trace_id for span in collector.spans}) == 1
