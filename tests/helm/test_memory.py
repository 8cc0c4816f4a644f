"""The chart's limit of memory holds, in a real control group, the worst images that the settings allow."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from oodguard.load_tests.gateway import Gateway
from tests.helm.charts import Render

GROUPS = Path("/sys/fs/cgroup/memory")
PIXELS = 12_000_000
QUEUE_BYTES = 64 * 1024 * 1024
# The machine may be busy with other tests.
PATIENT = ("--request-timeout", "60", "--drain-timeout", "75")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of one's own (version 1)."""
    folder = GROUPS / f"oodguard-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made ({error.strerror})")
    if not (folder / "memory.limit_in_bytes").exists():
        folder.rmdir()
        pytest.skip("control groups of version 1 do not limit memory here")
    yield folder
    for _ in range(50):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scanned(side: int) -> bytes:
    """A progressive grey JPEG of twelve scans, of which seven are the last one."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + 6 * last + data[-2:]


def worst_of_each_kind() -> list[tuple[str, bytes]]:
    """What the default settings allow at most: of scans, of wide numbers, of pixels that are turned, of memory."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    wide = Image.fromarray(np.zeros((7000, 7000), dtype=np.uint16))
    return [
        ("image/jpeg", scanned(7000)),
        ("image/png", encoded(wide, "PNG", compress_level=1)),
        ("image/png", encoded(Image.new("RGBA", (7000, 7000)), "PNG", compress_level=1, exif=exif)),
        ("image/webp", worst(15_800_000)),
    ]


def worst(pixels: int = PIXELS) -> bytes:
    """So many pixels with transparency, in a format that is decoded as a whole."""
    side = int(pixels**0.5)
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8), "RGBA")
    stream = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(stream, "WEBP", method=0, quality=30)
    return stream.getvalue()


def asked(render: Render, settings: dict[str, int], **values: object) -> int:
    """The limit in bytes that the chart asks for."""
    with pytest.raises(ValueError, match=r"may take \d+ MiB") as refused:
        render("cpu", {"settings": settings, "resources": {"limits": {"memory": "1Mi"}}, **values})
    needed = re.search(r"may take (\d+) MiB", str(refused.value))
    assert needed
    return int(needed[1]) * 1024 * 1024


def flags_of(settings: dict[str, int]) -> list[str]:
    """The settings for a command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def together(ask: Callable[[], None], callers: int) -> None:
    """Run `ask` in so many threads at once."""
    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def peak_of(running: Gateway) -> int:
    """The most bytes that the server has had in memory."""
    assert running.process.poll() is None, "killed"
    high = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.process.pid}/status").read_text())
    assert high
    return int(high[1]) * 1024


def test_the_limit_that_the_chart_asks_for_holds(render: Render, bundle: Path, group: Path) -> None:
    settings = {"max_pixels": PIXELS, "max_queue_bytes": QUEUE_BYTES, "max_body_bytes": QUEUE_BYTES}
    limit = asked(render, settings)
    (group / "memory.limit_in_bytes").write_text(str(limit))
    image = worst()
    statuses: Counter[int] = Counter()
    with Gateway(bundle, *flags_of(settings), "--sessions", "2", *PATIENT) as running:
        (group / "cgroup.procs").write_text(str(running.process.pid))
        idle = running.rss()
        until = time.monotonic() + 8

        def ask() -> None:
            with httpx.Client(timeout=90) as client:
                while time.monotonic() < until:
                    answer = client.post(
                        f"{running.url}/predict", content=image, headers={"content-type": "image/webp"}
                    )
                    statuses[answer.status_code] += 1

        together(ask, 8)
        peak = peak_of(running)
        assert set(statuses) == {200}
        assert peak < limit
        # One such image was decoded, which leaves no room for a second one.
        assert 14 * PIXELS < peak - idle < 300_000_000


def test_honest_photos_are_answered_beside_the_worst_pictures_within_the_limit(
    render: Render, bundle: Path, group: Path
) -> None:
    limit = asked(render, {})
    (group / "memory.limit_in_bytes").write_text(str(limit))
    abuse: Counter[int] = Counter()
    honest: Counter[int] = Counter()
    bodies = worst_of_each_kind()
    photo = sorted((bundle / "golden").glob("*.jpg"))[0].read_bytes()
    with Gateway(bundle, "--sessions", "2", *PATIENT) as running:
        (group / "cgroup.procs").write_text(str(running.process.pid))
        idle = running.rss()
        over = threading.Event()

        def send(kind: str, body: bytes) -> None:
            with httpx.Client(timeout=90) as client:
                for _ in range(2):
                    answer = client.post(f"{running.url}/predict", content=body, headers={"content-type": kind})
                    abuse[answer.status_code] += 1

        def photograph() -> None:
            with httpx.Client(timeout=90) as client:
                while not over.wait(0.1):
                    answer = client.post(
                        f"{running.url}/predict", content=photo, headers={"content-type": "image/jpeg"}
                    )
                    honest[answer.status_code] += 1
                    assert client.get(f"{running.private}/health/live").status_code == 200

        with ThreadPoolExecutor(len(bodies) + 1) as pool:
            caller = pool.submit(photograph)
            for sent in [pool.submit(send, *one) for one in bodies]:
                sent.result()
            over.set()
            caller.result()
        peak = peak_of(running)
        # Their bytes were admitted and decoded: none was refused.
        assert abuse == {200: 2 * len(bodies)}
        assert set(honest) == {200}
        assert sum(honest.values()) > 5
        assert peak < limit
        # Between the largest one alone and what the decoders may hold.
        assert 200_000_000 < peak - idle < 300_000_000


def test_the_limit_holds_for_large_grpc_messages(render: Render, bundle: Path, group: Path) -> None:
    settings = {"max_pixels": 1_000_000, "max_queue_bytes": 2 * QUEUE_BYTES, "max_body_bytes": QUEUE_BYTES // 2}
    limit = asked(render, settings, grpc={"enabled": True})
    # Messages arrive beside the queue, and are copied.
    assert limit - asked(render, settings) == pytest.approx(2 * 2 * QUEUE_BYTES, abs=2**20)
    (group / "memory.limit_in_bytes").write_text(str(limit))
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "BMP")
    # Few pixels and many bytes: readers of the format stop where the pixels end.
    image = InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([stream.getvalue() + b"\1" * 16_000_000], dtype=object))
    answers: Counter[str] = Counter()
    with Gateway(bundle, *flags_of(settings), "--grpc-port", "0", "--sessions", "2", *PATIENT) as running:
        (group / "cgroup.procs").write_text(str(running.process.pid))
        idle = running.rss()
        model = httpx.get(f"{running.url}/health/ready").json()["model"]["name"]
        until = time.monotonic() + 8

        def ask() -> None:
            with InferenceServerClient(running.rpc) as client:
                while time.monotonic() < until:
                    try:
                        client.infer(model, [image])
                        answers["OK"] += 1
                    except InferenceServerException as error:
                        answers[error.status()] += 1

        together(ask, 12)
        peak = peak_of(running)
        assert answers["OK"] > 12, answers
        assert set(answers) <= {"OK", "StatusCode.RESOURCE_EXHAUSTED"}
        assert peak < limit
        # More than the queue's bound alone, which the limit without gRPC would count.
        assert peak - idle > 2 * QUEUE_BYTES
