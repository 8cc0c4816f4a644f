"""The gRPC port of a real server process, through NVIDIA's own client and through bare channels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient import grpc as tc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import answers, wait_until
from oodguard.server.app import Parts
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.keys import digest, new_key
from oodguard.server.rpc.inference_service import ELSEWHERE
from oodguard.server.rpc.rpc_server import procedures_of
from oodguard.server.settings import ServeSettings
from tests.nearby import Nearby

INFER = "/inference.GRPCInferenceService/ModelInfer"
KEY = new_key()


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[Gateway]:
    """One server for the tests that leave it as it is."""
    with Gateway(bundle, "--grpc-port", "0", "--max-files", "4", "--max-body-bytes", "3000000") as one:
        yield one


@pytest.fixture
def triton_client(running: Gateway) -> Iterator[Any]:
    with tc.InferenceServerClient(running.rpc) as client:
        yield client


@pytest.fixture
def channel(running: Gateway) -> Iterator[Any]:
    with grpc.insecure_channel(running.rpc) as one:
        yield one


@pytest.fixture
def stub(channel: Any) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def encoded(images: list[bytes]) -> Any:
    tensor = tc.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    return tensor


def request(images: list[bytes], **more: Any) -> Any:
    """A request with typed contents."""
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [len(images)], "contents": {"bytes_contents": images}}]
    return pb.ModelInferRequest(**({"model_name": "discs", "inputs": inputs} | more))


def over_http(running: Gateway, images: list[bytes], query: str = "") -> list[dict[str, Any]]:
    files = [("image", ("x", image)) for image in images]
    predictions: list[dict[str, Any]] = httpx.post(f"{running.url}/predict{query}", files=files).json()["predictions"]
    return predictions


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options, timeout=20)
    return caught.value.code(), caught.value.details()


def test_triton_client_asks_about_the_server(triton_client: Any) -> None:
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("discs")
    assert triton_client.is_model_ready("discs", "7")
    assert triton_client.get_server_metadata().name == "oodguard"
    document = triton_client.get_model_metadata("discs", as_json=True)
    assert (document["name"], document["versions"]) == ("discs", ["7"])
    assert {tensor["name"] for tensor in document["inputs"]} == {"image", "pixels"}
    assert {tensor["name"] for tensor in document["outputs"]} >= {"label", "is_ood", "scores", "error"}


def test_triton_client_gets_the_verdicts_of_predict(
    running: Gateway, triton_client: Any, golden: list[bytes], bundle: Path
) -> None:
    images = golden[:4]
    answer = triton_client.infer("discs", [encoded(images)], request_id="a7", parameters={"accept": 0.5})
    expected = over_http(running, images, "?accept=0.5")
    assert [label.decode() for label in answer.as_numpy("label")] == [one["label"] for one in expected]
    assert answer.as_numpy("is_ood").tolist() == [one["is_ood"] for one in expected]
    for name, field in (("ood_score", "ood_score"), ("threshold", "threshold")):
        np.testing.assert_allclose(answer.as_numpy(name), [one[field] for one in expected], rtol=1e-3, atol=1e-4)
    manifest = load_manifest(bundle)
    assert answer.as_numpy("scores").shape == (len(images), len(manifest.scores))
    np.testing.assert_allclose(answer.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-4)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("a7", "discs", "7")
    assert [output.name for output in response.outputs][-1] != "error"


def test_explanations_by_parameter_and_by_output(
    running: Gateway, triton_client: Any, golden: list[bytes], nearby: Nearby
) -> None:
    images = golden[:2]
    by_parameter = triton_client.infer("discs", [encoded(images)], parameters={"explain": True})
    chosen = [tc.InferRequestedOutput("explanation")]
    by_output = triton_client.infer("discs", [encoded(images)], outputs=chosen)
    for answer in (by_parameter, by_output):
        nearby.require(images, [json.loads(text) for text in answer.as_numpy("explanation")])
    assert [output.name for output in by_output.get_response().outputs] == ["explanation"]
    usual = triton_client.infer("discs", [encoded(images)])
    assert "explanation" not in [output.name for output in usual.get_response().outputs]


def test_pixels_and_chosen_outputs(triton_client: Any, golden: list[bytes], bundle: Path) -> None:
    pixels = np.stack([load_pixels(one, load_manifest(bundle).preprocessing) for one in golden[:2]])
    tensor = tc.InferInput("pixels", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    outputs = [tc.InferRequestedOutput("ood_score"), tc.InferRequestedOutput("label")]
    answer = triton_client.infer("discs", [tensor], outputs=outputs, model_version="7")
    assert [output.name for output in answer.get_response().outputs] == ["ood_score", "label"]
    by_bytes = triton_client.infer("discs", [encoded(golden[:2])])
    np.testing.assert_allclose(answer.as_numpy("ood_score"), by_bytes.as_numpy("ood_score"), rtol=1e-4, atol=1e-5)


def test_typed_contents_and_compressed_messages(stub: Any, golden: list[bytes], bundle: Path) -> None:
    raw = request([], raw_input_contents=[b"".join(len(one).to_bytes(4, "little") + one for one in golden[:2])])
    raw.inputs[0].shape[:] = [2]
    expected = stub.ModelInfer(raw).raw_output_contents
    assert stub.ModelInfer(request(golden[:2])).raw_output_contents == expected
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert stub.ModelInfer(request(golden[:2]), compression=compression).raw_output_contents == expected
    pixels = load_pixels(golden[0], load_manifest(bundle).preprocessing)[None]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}
    typed = {**tensor, "contents": {"uint_contents": pixels.ravel().tolist()}}
    numbers = stub.ModelInfer(pb.ModelInferRequest(model_name="discs", inputs=[typed]))
    as_bytes = pb.ModelInferRequest(model_name="discs", inputs=[tensor], raw_input_contents=[pixels.tobytes()])
    assert numbers.raw_output_contents == stub.ModelInfer(as_bytes).raw_output_contents


def test_a_target_acceptance_as_number_or_text(stub: Any, golden: list[bytes]) -> None:
    def threshold(**parameter: Any) -> float:
        asked = request(golden[:1], parameters={"accept": parameter}, outputs=[{"name": "threshold"}])
        return float(np.frombuffer(stub.ModelInfer(asked).raw_output_contents[0], "<f4")[0])

    assert threshold(double_param=0.5) == threshold(string_param="0.5") < threshold(double_param=0.9)


def test_a_bad_image_is_named_or_answered_as_an_error_row(triton_client: Any, golden: list[bytes]) -> None:
    images = [golden[0], b"junk", golden[1]]
    with pytest.raises(InferenceServerException) as caught:
        triton_client.infer("discs", [encoded(images)])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert caught.value.message().startswith("unsupported_type: image 1: ")
    outputs = [tc.InferRequestedOutput(name) for name in ("label", "ood_score", "error")]
    answer = triton_client.infer("discs", [encoded(images)], outputs=outputs)
    assert [bool(text) for text in answer.as_numpy("error")] == [False, True, False]
    assert np.isnan(answer.as_numpy("ood_score")).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model_name": "cats"}, "NOT_FOUND", "discs version 7"),
        ({"model_version": "8"}, "NOT_FOUND", "discs version 7"),
        ({"inputs": []}, "INVALID_ARGUMENT", "inputs"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1]}]}, "INVALID_ARGUMENT", "exactly one input"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}, "INVALID_ARGUMENT", "0 came"),
        ({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1]}]}, "INVALID_ARGUMENT", "datatype is BYTES"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [0]}]}, "INVALID_ARGUMENT", "no_images"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}, "INVALID_ARGUMENT", "shape"),
        ({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3]}]}, "INVALID_ARGUMENT", "shape is"),
        ({"raw_input_contents": [b"\1\0\0\0x"]}, "INVALID_ARGUMENT", "not both"),
        ({"outputs": [{"name": "nope"}]}, "INVALID_ARGUMENT", "does not exist"),
        ({"parameters": {"accept": {"string_param": "much"}}}, "INVALID_ARGUMENT", "accept is a number"),
        ({"parameters": {"accept": {"double_param": 2.0}}}, "INVALID_ARGUMENT", "bad_parameter"),
    ],
)
def test_requests_that_cannot_be_used(
    stub: Any, golden: list[bytes], change: dict[str, Any], status: str, word: str
) -> None:
    code, text = refusal(stub.ModelInfer, request(golden[:1], **change))
    assert (code.name, word in text) == (status, True), text


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (b"\xff" * 100, "wire format"),
        (b"\x0a\x7fshort", "wire format"),
        (b"\x0b\x0c", "wire format"),
        (b"\x0a\x02\xff\xfe", "not a ModelInferRequest"),
        (b"\x2a\x00" * 100_000, "more than"),
        (b"\x2a\x06\x2a\x04\x12\x02\x01\x02", "typed contents"),
    ],
)
def test_messages_that_are_none(channel: Any, message: bytes, word: str) -> None:
    code, text = refusal(channel.unary_unary(INFER), message)
    assert (code, word in text) == (grpc.StatusCode.INVALID_ARGUMENT, True), text


def test_limits_of_images_and_bytes(running: Gateway, stub: Any, golden: list[bytes]) -> None:
    def refused(code: str) -> float:
        return running.sample(f'oodguard_rejected_total{{code="{code}"}}')

    before = refused("body_too_large")
    code, text = refusal(stub.ModelInfer, request(golden[:1] * 5))
    assert (code, text) == (
        grpc.StatusCode.INVALID_ARGUMENT, "too_many_files: the request holds more than 4 images"
    )  # fmt: skip
    code, text = refusal(stub.ModelInfer, request([b"x" * 3_000_001]))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3000000" in text
    assert refused("body_too_large") == before + 1
    # A small message that would unpack to a large one.
    code, _ = refusal(stub.ModelInfer, request([b"\0" * 50_000_000]), compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", ["ModelConfig", "RepositoryIndex", "ModelStatistics"])
def test_what_triton_has_beside_the_protocol_is_named_as_missing(stub: Any, name: str) -> None:
    code, text = refusal(getattr(stub, name), getattr(pb, f"{name}Request")())
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert text.startswith(f"method_not_allowed: this server has no {name}; ")


def test_a_method_that_nobody_knows(running: Gateway, channel: Any) -> None:
    code, text = refusal(channel.unary_unary("/some.Service/Method"), b"")
    assert (code, "ModelInfer" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)
    # Never what a caller typed.
    assert "some.Service" not in running.metrics()


def test_calls_are_counted_and_answered_with_their_id(running: Gateway, stub: Any, golden: list[bytes]) -> None:
    def counted(status: int) -> int:
        return running.count("oodguard_requests", "route", "status")[INFER, str(status)]

    before = counted(200), counted(404), running.sample(f'oodguard_request_seconds_count{{route="{INFER}"}}')
    _, call = stub.ModelInfer.with_call(request(golden[:1]), metadata=[("x-request-id", "mine-1")])
    assert dict(call.trailing_metadata())["x-request-id"] == "mine-1"
    _, call = stub.ModelInfer.with_call(request(golden[:1]), metadata=[("x-request-id", "not one")])
    assert len(dict(call.trailing_metadata())["x-request-id"]) == 32
    refusal(stub.ModelInfer, request(golden[:1], model_name="cats"))
    after = counted(200), counted(404), running.sample(f'oodguard_request_seconds_count{{route="{INFER}"}}')
    assert after == (before[0] + 2, before[1] + 1, before[2] + 2)


def test_the_standard_health_service(channel: Any) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    code, _ = refusal(health.Check, health_pb2.HealthCheckRequest(service="nope"))
    assert code == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_the_document_names_every_method(bundle: Path) -> None:
    parts = Parts.of(ServeSettings(bundle=bundle), FakeEngine(bundle, load_manifest(bundle)))
    text = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")
    section = text.split("## gRPC")[1].split("\n## ")[0]
    try:
        procedures = procedures_of(parts)
    finally:
        parts.decoders.close()
    for procedure in procedures:
        name = procedure.path.rpartition("/")[2]
        assert name in section or name in ELSEWHERE, name
    assert {procedure.path for procedure in procedures if procedure.open} == {
        *(f"/inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady")),
        *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch")),
    }


def test_keys(server: Any, golden: list[bytes]) -> None:
    running = server("--grpc-port", "0", "--key-hashes", f"ann:{digest(KEY)}", "--log-level", "info")
    with grpc.insecure_channel(running.rpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, message in (
            (stub.ModelInfer, request(golden[:1])),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="discs")),
            (stub.ModelConfig, pb.ModelConfigRequest()),
            (channel.unary_unary("/some/Method", lambda _: b"", bytes), None),
        ):
            for metadata in ([], [("authorization", "Bearer nope")], [("x-api-key", KEY + "x")]):
                code, text = refusal(call, message, metadata=metadata)
                assert (code, text.partition(":")[0]) == (grpc.StatusCode.UNAUTHENTICATED, "unauthorized")
        for header in (("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)):
            assert stub.ModelInfer(request(golden[:1]), metadata=[header]).model_name == "discs"
        # What a load balancer asks needs none.
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
    lines = [json.loads(line) for line in running.output().splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["message"] == f"POST {INFER} 200"]
    assert [line["key"] for line in asked] == ["ann", "ann"]
    assert KEY not in running.output()


def test_tls_and_client_certificates(server: Any, certificate: tuple[Path, Path], golden: list[bytes]) -> None:
    cert, key = certificate
    files = ("--tls-cert", str(cert), "--tls-key", str(key))
    running = server("--grpc-port", "0", *files)
    with tc.InferenceServerClient(running.rpc, ssl=True, root_certificates=str(cert)) as client:
        assert client.infer("discs", [encoded(golden[:1])]).as_numpy("label").shape == (1,)
    with tc.InferenceServerClient(running.rpc) as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=3)
    strict = server("--grpc-port", "0", *files, "--tls-ca", str(cert), ready=False)
    wait_until(lambda: answers(f"{strict.private}/health/ready"))
    mine = {"private_key": str(key), "certificate_chain": str(cert)}
    with tc.InferenceServerClient(strict.rpc, ssl=True, root_certificates=str(cert), **mine) as client:
        assert client.is_server_live(client_timeout=20)
    nameless = tc.InferenceServerClient(strict.rpc, ssl=True, root_certificates=str(cert))
    with nameless as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=3)


def test_a_port_that_is_taken_is_one_sentence(running: Gateway, bundle: Path) -> None:
    port = running.rpc.rpartition(":")[2]
    flags = ["--port", "0", "--admin-port", "0", "--grpc-port", port]
    other = subprocess.run(
        [sys.executable, "-m", "oodguard.cli", "serve", str(bundle), *flags], capture_output=True, text=True, timeout=60
    )
    assert other.returncode != 0
    assert "Traceback" not in other.stderr
    assert port in other.stderr


def test_a_certificate_that_is_none_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    ports = ["--port", "0", "--admin-port", "0", "--grpc-port", "0"]
    files = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "cert.pem")]
    program = [sys.executable, "-m", "oodguard.cli", "serve", str(bundle), *ports, *files]
    other = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert other.returncode != 0
    assert "Traceback" not in other.stderr
    assert "are no certificate and its key" in " ".join(other.stderr.split())


def test_nothing_of_grpc_is_imported_while_the_port_is_off(bundle: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from oodguard.server.app import create_gateway; "
        "from oodguard.server.settings import ServeSettings; "
        f"create_gateway(ServeSettings(bundle=Path({str(bundle)!r}))); "
        "print([name for name in sys.modules if name.split('.')[0] in ('grpc', 'google', 'tritonclient')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
