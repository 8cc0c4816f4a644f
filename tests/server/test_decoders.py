"""Decoders are watched and end with the process; together they hold no more than their budget."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from oodguard.core.decoding import DecodingRoom
from oodguard.core.preprocessing import ImageLimits, Preprocessing
from oodguard.load_tests.process import answers, wait_until
from oodguard.server.decoders import LIGHT_AT_ONCE, LIGHT_BYTES, Decoders

HOW = Preprocessing(resize=16, crop=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PNG = {"content-type": "image/png"}
# Serves a bundle whose decoders find no room: what they begin never ends.
WITHOUT_ROOM = """
import socket, sys
from pathlib import Path
from oodguard.server.app import create_gateway
from oodguard.server.gateway import run
from oodguard.server.settings import ServeSettings

def listening(port):
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", int(port)))
    found.listen()
    return found

settings = ServeSettings(
    bundle=Path(sys.argv[1]), drain_delay=0.1, request_timeout=0.5, body_timeout=1, drain_timeout=5, watch=False
)
gateway = create_gateway(settings)
room = gateway.parts.decoders.light_room
with room.hold(room.size):
    code = run(gateway, listening(sys.argv[2]), listening(sys.argv[3]))
sys.exit(code)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def full(room: DecodingRoom) -> Iterator[None]:
    with room.hold(room.size):
        yield


def test_decoders_are_stuck_once_every_thread_keeps_one_image(picture: Callable[..., bytes]) -> None:
    clock = Clock()
    decoders = Decoders(2, limits=ImageLimits(), room=DecodingRoom(1), clock=clock)
    room = decoders.light_room
    with full(room), ThreadPoolExecutor(2) as callers:
        first = callers.submit(decoders._load, picture(), HOW)
        wait_until(lambda: room.waiting == 1)
        clock.now += 5
        # One thread is free.
        assert (decoders.oldest, decoders.stuck, decoders.busy) == (5.0, 0.0, True)
        second = callers.submit(decoders._load, picture(), HOW)
        wait_until(lambda: room.waiting == 2)
        clock.now += 2
        assert (decoders.oldest, decoders.stuck) == (7.0, 2.0)
        room.size *= 2
        with room.hold(0):
            pass
        assert first.result().pixels.shape == second.result().pixels.shape == (16, 16, 3)
    assert (decoders.oldest, decoders.stuck, decoders.busy) == (0.0, 0.0, False)
    decoders.close()


def test_readiness_then_liveness_turn_red_while_no_decoder_is_free(start: Any, picture: Callable[..., bytes]) -> None:
    client = start(decode_workers=1, stall_after=0.05, dead_after=3600.0, request_timeout=0.2)
    with full(client.parts.decoders.light_room):
        answer = client.post("/predict", content=picture(), headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_missed")
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "every decoder has been busy with one image" in ready.json()["detail"]
        assert client.get("/health/live").status_code == 200
        assert client.sample("oodguard_ready") == 0
        assert client.sample("oodguard_decoding_seconds") > 0.05
        assert client.sample("oodguard_decoding_bytes") == LIGHT_AT_ONCE * LIGHT_BYTES
        client.parts.health.dead_after = 0.05
        assert client.get("/health/live").status_code == client.get("/v2/health/live").status_code == 503
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    assert client.post("/predict", content=picture(), headers=PNG).status_code == 200
    assert client.sample("oodguard_decoding_bytes") == 0


def test_a_costly_image_is_refused_by_the_setting_and_costs_its_mates_nothing(
    start: Any, picture: Callable[..., bytes], golden: list[bytes]
) -> None:
    client = start(max_decode_work=60_000)
    # 300 x 300 pixels are passed over once; the golden images are smaller.
    files = [("image", ("large.png", picture(size=(300, 300)))), ("image", ("golden.jpg", golden[0]))]
    answer = client.post("/predict", files=files).json()
    assert [(e["index"], e["code"]) for e in answer["errors"]] == [(0, "too_much_work")]
    assert [p["index"] for p in answer["predictions"]] == [1]
    alone = client.post("/predict", content=picture(size=(300, 300)), headers=PNG)
    assert (alone.status_code, alone.json()["title"]) == (413, "Image too costly to decode")


def test_ordinary_photos_do_not_wait_for_large_ones(picture: Callable[..., bytes]) -> None:
    # 6 to 9 bytes are counted for each pixel of a small PNG.
    room = DecodingRoom(200_000)
    decoders = Decoders(1, limits=ImageLimits(), room=room, light=20_000)
    small, large = picture(), picture(size=(100, 100))

    async def story() -> None:
        with full(room):
            waiting = [asyncio.ensure_future(decoders.load(large, HOW)) for _ in range(3)]
            while not room.waiting:
                await asyncio.sleep(0.01)
            for _ in range(5):
                assert (await asyncio.wait_for(decoders.load(small, HOW), 10)).pixels.shape == (16, 16, 3)
            assert (decoders.stuck, decoders.busy, decoders.oldest > 0) == (0.0, True, True)
        assert [found.pixels.shape for found in await asyncio.gather(*waiting)] == [(16, 16, 3)] * 3

    asyncio.run(story())
    assert (decoders.busy, room.held) == (False, 0)
    decoders.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_a_process_whose_decoders_never_end_ends_in_its_time(bundle: Path, picture: Callable[..., bytes]) -> None:
    public, private = free_port(), free_port()
    command = [sys.executable, "-c", WITHOUT_ROOM, str(bundle), str(public), str(private)]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{public}"
            wait_until(lambda: answers(f"{url}/health/ready"), seconds=60)
            assert httpx.post(f"{url}/predict", content=picture(), headers=PNG, timeout=30).status_code == 504
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert time.monotonic() - began < 6
        finally:
            process.kill()


def test_all_decoders_together_hold_no_more_than_their_budget(picture: Callable[..., bytes]) -> None:
    seen: list[int] = []

    class Noted(DecodingRoom):
        @contextmanager
        def hold(self, size: int) -> Iterator[None]:
            with super().hold(size):
                seen.append(self.held)
                time.sleep(0.005)
                yield

    # A red PNG of this size is counted with 9 bytes for each pixel: three of them fit, and four threads are there.
    room = Noted(300_000)
    decoders = Decoders(4, limits=ImageLimits(), room=room, light=20_000)

    async def story() -> None:
        found = await asyncio.gather(*(decoders.load(picture(size=(100, 100)), HOW) for _ in range(32)))
        assert [one.pixels.shape for one in found] == [(16, 16, 3)] * 32

    asyncio.run(story())
    assert max(seen) == 270_000
    assert (len(seen), decoders.held) == (32, 0)
    decoders.close()


def test_an_image_that_takes_more_than_all_memory_for_decoding_is_refused(
    start: Any,
) -> None:
    def encoded(kind: str, width: int, height: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (width, height), (200, 30, 30)).save(stream, kind)
        return stream.getvalue()

    client = start(max_pixels=12_000_000, max_decode_bytes=60_000_000)
    large = client.post("/predict", content=encoded("WEBP", 2000, 2000), headers={"content-type": "image/webp"})
    assert (large.status_code, large.json()["code"]) == (413, "too_many_pixels")
    assert (
        "at most 60,000,000 are there (--max-decode-bytes), so send it smaller, or as an ordinary JPEG"
        in large.json()["detail"]
    )
    jpeg = client.post("/predict", content=encoded("JPEG", 3000, 4000), headers={"content-type": "image/jpeg"})
    assert jpeg.status_code == 200


def test_a_budget_that_the_largest_image_does_not_fit_is_refused(start: Any) -> None:
    with pytest.raises(
        ValueError, match="max_decode_bytes is too small for an image of max_pixels; raise it to 260000"
    ):
        start(max_pixels=10_000, max_decode_bytes=259_999)
    with pytest.raises(ValueError, match="raise it to 60000000, or lower max_pixels"):
        start(max_pixels=12_000_000, max_decode_bytes=59_999_999)
