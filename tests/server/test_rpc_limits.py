"""The gRPC port under load, with deadlines, slow senders and broken engines."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from oodguard.server.stages import STAGES
from tests.server.collector import Collector, attributes
from tests.server.rpc_bench import INFER, NOT_SERVING, SERVING, WAIT, Bench, asking, refusal


def test_past_the_queue_calls_are_refused_with_the_time_to_come_back(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            inside = [asyncio.ensure_future(one.stub.ModelInfer(asking(picture()))) for _ in range(2)]
            await one.until(lambda: one.parts.admission.images == 2)
            code, text, metadata = await refusal(one.stub.ModelInfer(asking(picture())))
            assert (code, text.partition(":")[0]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
            assert int(metadata["grpc-retry-pushback-ms"]) == 1000 * int(metadata["retry-after"]) >= 1000
        assert [len(answer.outputs) for answer in await asyncio.gather(*inside)] == [10, 10]
        assert (one.rejected("overloaded"), one.count(429), one.count(200)) == (1, 1, 2)
        assert (one.parts.admission.images, one.parts.admission.bytes) == (0, 0)

    trial(story, max_queue=2, max_files=2)


def test_bytes_of_messages_count(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        image = picture()
        with one.held():
            inside = asyncio.ensure_future(one.stub.ModelInfer(asking(image)))
            await one.until(lambda: one.parts.admission.images == 1)
            assert one.parts.admission.bytes > len(image)
            code, _, _ = await refusal(one.stub.ModelInfer(asking(b"x" * 2000)))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        await inside

    trial(story, max_queue_bytes=2100, max_body_bytes=2100)


def test_calls_are_as_many_as_connections_may_be(trial: Any) -> None:
    async def story(one: Bench) -> None:
        health = health_pb2_grpc.HealthStub(one.channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watching:
            assert (await watch.read()).status == SERVING
        # One connection may have no more calls than that, so another one asks.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(one.address, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            code, text, _ = await refusal(stub.ServerLive(pb.ServerLiveRequest(), timeout=WAIT))
        assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded: more than 3 calls are open")
        watching.pop().cancel()
        assert (await one.stub.ServerLive(pb.ServerLiveRequest(), timeout=WAIT)).live

    trial(story, max_connections=3)


def test_the_callers_deadline_is_kept(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            started = time.monotonic()
            code, _, _ = await refusal(one.stub.ModelInfer(asking(picture()), timeout=0.1))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - started < 5
            await one.until(lambda: one.count(504) == 1)
            assert one.rejected("deadline_missed") == 1
            # The same by the header of the HTTP routes.
            header = [("x-request-timeout-ms", "50")]
            code, text, _ = await refusal(one.stub.ModelInfer(asking(picture()), timeout=WAIT, metadata=header))
            assert (code, text.partition(":")[0]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_missed")
            code, text, _ = await refusal(
                one.stub.ModelInfer(asking(picture()), metadata=[("x-request-timeout-ms", "soon")])
            )
            assert (code, text.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_parameter")
        await one.until(lambda: one.parts.admission.images == 0)
        assert len((await one.stub.ModelInfer(asking(picture()), timeout=WAIT)).outputs) == 10

    trial(story, request_timeout=600.0, max_request_timeout=600.0, drain_timeout=900.0)


def test_no_caller_gets_more_time_than_the_server_gives(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            for how in ({}, {"timeout": 3600}):
                code, text, _ = await refusal(one.stub.ModelInfer(asking(picture()), **how))
                assert (code, text.partition(":")[0]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_missed")

    trial(story, request_timeout=0.05, max_request_timeout=0.05)


def test_a_caller_who_leaves_frees_its_place(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        with one.held():
            first = asyncio.ensure_future(one.stub.ModelInfer(asking(picture())))
            await one.until(lambda: one.parts.admission.images == 1)
            second = one.stub.ModelInfer(asking(picture("blue")))
            await one.until(lambda: one.parts.admission.images == 2)
            second.cancel()
            await one.until(lambda: one.parts.admission.images == 1)
            assert (one.rejected("client_gone"), one.count(499)) == (1, 1)
        assert len((await first).outputs) == 10

    trial(story)


def test_an_engine_that_fails_is_an_internal_error_and_one_that_is_gone_unavailable(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        health = health_pb2_grpc.HealthStub(one.channel)
        one.engine.fail_next = True
        code, text, _ = await refusal(one.stub.ModelInfer(asking(picture())))
        assert (code, text.partition(":")[0]) == (grpc.StatusCode.INTERNAL, "engine_failed")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await one.engine.close()
        assert (await refusal(one.stub.ModelInfer(asking(picture()))))[0] == grpc.StatusCode.UNAVAILABLE
        assert (await refusal(one.stub.ModelInfer(asking(picture()))))[1].startswith("not_ready: ")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert (await watch.read()).status == NOT_SERVING
        assert not (await one.stub.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await one.stub.ModelReady(pb.ModelReadyRequest(name="discs"))).ready
        assert (await one.stub.ServerLive(pb.ServerLiveRequest())).live

    trial(story)


def test_a_call_has_a_span_for_every_stage_below_its_callers(trial: Any, picture: Any) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    collector = Collector()

    async def story(one: Bench) -> None:
        metadata = [("traceparent", f"00-{trace}-{parent}-01"), ("x-request-id", "order-7")]
        await one.stub.ModelInfer(asking(picture()), metadata=metadata)
        await one.stub.ServerLive(pb.ServerLiveRequest())

    try:
        trial(story, traces_endpoint=collector.url)
    finally:
        collector.close()
    (call,) = [span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    assert (call.name, call.trace_id.hex(), call.parent_span_id.hex()) == (f"POST {INFER}", trace, parent)
    found = attributes(call)
    assert (found["http.response.status_code"], found["oodguard.request_id"], found["oodguard.images"]) == (
        200, "order-7", 1,
    )  # fmt: skip
    assert {span.name for span in collector.spans if span is not call} == set(STAGES)


def test_a_message_that_never_comes_ends_and_time_counts_from_its_arrival(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        started = time.monotonic()
        code, text, _ = await refusal(one.channel.stream_unary(INFER)())
        assert (code, text) == (
            grpc.StatusCode.DEADLINE_EXCEEDED, "too_slow: the request message did not arrive within 0.6 s"
        )  # fmt: skip
        assert 0.5 < time.monotonic() - started < 5
        # A message may take longer to arrive than it may take to answer.
        call = one.channel.stream_unary(INFER)()
        await call.wait_for_connection()
        await asyncio.sleep(0.4)
        await call.write(asking(picture()).SerializeToString())
        assert pb.ModelInferResponse.FromString(await call).model_name == "discs"
        empty = one.channel.stream_unary(INFER)()
        await empty.done_writing()
        assert (await refusal(empty))[0] == grpc.StatusCode.INVALID_ARGUMENT

    trial(story, body_timeout=0.6, request_timeout=0.3)


def test_slow_senders_make_room_for_others(trial: Any, picture: Any) -> None:
    async def story(one: Bench) -> None:
        slow = [one.channel.stream_unary(INFER)() for _ in range(4)]
        for call in slow:
            await call.wait_for_connection()
        await asyncio.sleep(0.2)
        started = time.monotonic()
        # Two messages may arrive at once; four that never come are in the way, and two probes are not held up.
        answer = asyncio.ensure_future(one.stub.ModelInfer(asking(picture()), timeout=WAIT))
        health = health_pb2_grpc.HealthStub(one.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=0.9)).status == SERVING
        assert (await answer).model_name == "discs"
        assert time.monotonic() - started < 10
        # Three had to go, whichever arrived first; the last is in nobody's way.
        await one.until(lambda: sum(call.done() for call in slow) == 3)
        for call in [call for call in slow if call.done()]:
            code, text, metadata = await refusal(call)
            assert (code, "while others waited" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            assert metadata["retry-after"] == "1"
        for call in slow:
            call.cancel()

    trial(story, max_body_bytes=1_000_000, max_queue_bytes=2_000_000, body_timeout=60.0, drain_timeout=90.0)


def test_messages_beyond_those_that_may_arrive_stay_with_their_senders(server: Any) -> None:
    running = server("--grpc-port", "0", "--max-body-bytes", "8000000", "--max-queue-bytes", "16000000")
    process = psutil.Process(running.process.pid)
    before = process.memory_info().rss
    peak = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.005)

    async def flood() -> list[Any]:
        async with grpc.aio.insecure_channel(running.rpc) as channel:
            infer = channel.unary_unary(INFER)
            calls = [infer(b"\x0a\xd8\x8d\xdd\x03" + bytes(7_800_024), timeout=60) for _ in range(40)]
            return await asyncio.gather(*calls, return_exceptions=True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        codes = {answer.code() for answer in asyncio.run(flood())}
    finally:
        over.set()
        watcher.join()
    assert codes <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    # All at once would be 312 MB.
    assert peak - before < 150e6
