"""Traces as a collector receives them."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from oodguard.core.manifest import PROBABILITIES_NAME, SCORES_NAME, load_manifest
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.engines.triton_api import Connection
from oodguard.server.engines.triton_server import TritonServer
from oodguard.server.settings import ServeSettings
from oodguard.server.stages import STAGES
from oodguard.server.tracing import CURRENT, Tracing
from tests.server.collector import Collector, attributes

PNG = {"content-type": "image/png"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def requests_of(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]


def test_a_request_has_a_span_for_every_stage_below_its_callers(
    start: Any, collector: Collector, golden: list[bytes]
) -> None:
    client = start(traces_endpoint=collector.url)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "order-7"}
    files = [("image", ("secret-name.png", image)) for image in golden[:2]]
    answer = client.post("/predict", files=files, headers=headers).json()
    client.parts.tracing.close()
    (request,) = requests_of(collector.spans)
    assert (request.name, request.trace_id.hex(), request.parent_span_id.hex()) == ("POST /predict", TRACE, PARENT)
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "oodguard.request_id": "order-7",
        "oodguard.images": 2,
        "oodguard.model.name": "discs",
        "oodguard.model.version": "7",
    }
    stages = {span.name: span for span in collector.spans if span is not request}
    assert tuple(stages) == STAGES
    for name, span in stages.items():
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
        # The envelope of all images is at least as long as the longest of them; milliseconds are rounded.
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 >= answer["timing_ms"][name] - 0.001
        assert request.start_time_unix_nano - 1e6 <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 1e6
    assert collector.services == {"oodguard"}
    assert not any(b"secret-name" in span.SerializeToString() for span in collector.spans)


def test_tensors_have_the_same_stages_in_traces_and_metrics(
    start: Any, collector: Collector, golden: list[bytes]
) -> None:
    client = start(traces_endpoint=collector.url)
    body = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(golden[0]).decode()]}]
    }
    answer = client.post("/v2/models/discs/infer", json=body)
    assert answer.status_code == 200, answer.text
    client.parts.tracing.close()
    assert [span.name for span in collector.spans] == [*STAGES, "POST /v2/models/*"]
    for stage in STAGES:
        assert client.sample(f'oodguard_stage_seconds_count{{stage="{stage}"}}') == 1.0


def test_a_failed_request_is_marked(start: Any, collector: Collector, fake: FakeEngine, golden: list[bytes]) -> None:
    client = start(engine=fake, traces_endpoint=collector.url)
    fake.fail_next = True
    assert client.post("/predict", content=golden[0], headers=PNG).status_code == 500
    assert client.post("/predict", content=b"junk", headers=PNG).status_code == 415
    client.parts.tracing.close()
    failed, refused = requests_of(collector.spans)
    assert (failed.status.code, refused.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert attributes(refused)["http.response.status_code"] == 415


def test_callers_decide_and_else_the_share_does(
    start: Any, collector: Collector, fake: FakeEngine, golden: list[bytes]
) -> None:
    client = start(engine=fake, traces_endpoint=collector.url, traces_share=1e-9)
    for flags in ("01", "00"):
        traced = {**PNG, "traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
        assert client.post("/predict", content=golden[0], headers=traced).status_code == 200
    assert client.post("/predict", content=golden[0], headers=PNG).status_code == 200
    assert client.post("/predict", content=golden[0], headers={**PNG, "traceparent": "nonsense"}).status_code == 200
    client.parts.tracing.close()
    assert len(requests_of(collector.spans)) == 1


def test_only_inference_is_traced(start: Any, collector: Collector, fake: FakeEngine) -> None:
    client = start(engine=fake, traces_endpoint=collector.url)
    for path in ("/health/ready", "/model", "/v2/models/discs", "/nope"):
        client.get(path)
    client.parts.tracing.close()
    assert collector.spans == []


def test_a_collector_that_is_away_costs_no_answer(start: Any, fake: FakeEngine, golden: list[bytes]) -> None:
    client = start(engine=fake, traces_endpoint="http://127.0.0.1:9")
    assert client.post("/predict", content=golden[0], headers=PNG).status_code == 200


def test_only_a_web_address_is_taken() -> None:
    with pytest.raises(ValidationError, match="is not an address"):
        ServeSettings(traces_endpoint="localhost:4318")


def test_without_traces_nothing_of_them_is_imported() -> None:
    script = "import sys, oodguard.server.gateway; print('opentelemetry.sdk' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every inference with zeros and keeps the metadata it came with."""

    def __init__(self, classes: int, scores: int) -> None:
        self.seen: list[dict[str, str]] = []
        self._widths = {PROBABILITIES_NAME: classes, SCORES_NAME: scores}

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.seen.append({key: str(value) for key, value in context.invocation_metadata()})
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, width in self._widths.items():
            answer.outputs.add(name=name, datatype="FP32", shape=[1, width])
            answer.raw_output_contents.append(np.zeros(width, dtype=np.float32).tobytes())
        return answer


def test_triton_is_told_of_the_trace_in_grpc_metadata(bundle: Path, collector: Collector) -> None:
    manifest = load_manifest(bundle)
    recorder = Recorder(len(manifest.classes), len(manifest.scores))
    serving = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(recorder, serving)
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    side = manifest.preprocessing.crop
    images = np.zeros((1, side, side, 3), dtype=np.uint8)
    tracing = Tracing(collector.url, share=1.0)

    async def ask() -> None:
        server = TritonServer(
            f"127.0.0.1:{port}", Connection(), model="m", manifest=manifest, pinned=None, golden=images, shared=None
        )
        await server.infer(images)
        carried = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode(), b"tracestate": b"a=1"}
        trace = tracing.begin(method="POST", route="/predict", request_id="1", headers=carried)
        CURRENT.set(trace)
        await server.infer(images)
        trace.end(200)
        await server.close()

    try:
        asyncio.run(ask())
    finally:
        serving.stop(None)
    tracing.close()
    call, request = collector.spans
    assert (call.name, call.kind, call.parent_span_id) == ("triton", Span.SPAN_KIND_CLIENT, request.span_id)
    untraced, traced = recorder.seen
    assert "traceparent" not in untraced
    assert traced["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
    assert traced["tracestate"] == "a=1"
