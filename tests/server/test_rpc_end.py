"""The gRPC port when the model is replaced and when the process ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from oodguard.load_tests.process import wait_until
from tests.server.rpc_bench import NOT_SERVING, SERVING, WAIT, Bench, asking, refusal


def ask_for_long(address: str, image: bytes, over: threading.Event, answers: list[Any]) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while not over.is_set():
            try:
                answers.append(stub.ModelInfer(asking(image), timeout=WAIT).model_version)
            except grpc.RpcError as error:
                answers.append(error.code())


@contextmanager
def load(address: str, image: bytes, callers: int) -> Iterator[list[Any]]:
    """Steady calls from a few threads: what came back."""
    answers: list[Any] = []
    over = threading.Event()
    threads = [threading.Thread(target=ask_for_long, args=(address, image, over, answers)) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def test_the_model_is_replaced_under_load_without_a_failed_call(
    server: Any, bundle: Path, newer: Path, tmp_path: Path, golden: list[bytes]
) -> None:
    own = tmp_path / "bundle"
    shutil.copytree(bundle, own)
    running = server("--grpc-port", "0", "--no-watch", folder=own)
    with load(running.rpc, golden[0], 3) as answers:
        wait_until(lambda: "7" in answers)
        shutil.rmtree(own)
        shutil.copytree(newer, own)
        assert httpx.post(f"{running.private}/admin/reload", timeout=30).status_code == 200
        wait_until(lambda: "8" in answers)
    assert set(answers) == {"7", "8"}


def test_sigterm_turns_health_red_serves_on_drains_and_exits_0(server: Any, golden: list[bytes]) -> None:
    running = server("--grpc-port", "0", "--drain-delay", "2")
    with load(running.rpc, golden[0], 4) as answers, grpc.insecure_channel(running.rpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
        assert next(watch).status == SERVING
        running.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        before = len(answers)
        wait_until(lambda: len(answers) > before, 1.5)
        assert running.process.wait(15) == 0
    # Until the port closed every call was answered; afterwards connecting is refused, and nothing was cut off.
    assert set(answers) == {"7", grpc.StatusCode.UNAVAILABLE}
    assert answers.index(grpc.StatusCode.UNAVAILABLE) > before
    assert "Traceback" not in running.output()


def test_calls_under_way_are_answered_after_the_port_has_closed(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            inside = [asyncio.ensure_future(one.stub.ModelInfer(asking(picture()))) for _ in range(2)]
            await one.until(lambda: one.parts.admission.images == 2)
            ending = asyncio.ensure_future(one.rpc.stop())
            await asyncio.sleep(0.1)
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(one.address, options=options) as late:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(late)
                assert (await refusal(stub.ServerLive(pb.ServerLiveRequest())))[0] == grpc.StatusCode.UNAVAILABLE
            assert not ending.done()
            one.engine.fail_next = True
        answers = await asyncio.gather(*inside, return_exceptions=True)
        (failed,) = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
        assert (failed.code(), (failed.details() or "").partition(":")[0]) == (
            grpc.StatusCode.INTERNAL, "engine_failed",
        )  # fmt: skip
        assert [one.model_name for one in answers if one is not failed] == ["discs"]
        await ending

    trial(story, max_batch=1)


def test_waiting_for_callers_to_leave_ends_with_the_drain_timeout(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            longer = [("x-request-timeout-ms", "30000")]
            inside = asyncio.ensure_future(one.stub.ModelInfer(asking(picture()), metadata=longer))
            await one.until(lambda: one.parts.admission.images == 1)
            started = time.monotonic()
            await one.rpc.stop()
            assert 0.2 < time.monotonic() - started < 3
        assert (await refusal(inside))[0] in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert one.parts.admission.images == 0

    trial(story, body_timeout=0.1, request_timeout=0.2, drain_timeout=0.4)
