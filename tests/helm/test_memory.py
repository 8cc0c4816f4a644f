"""The chart's limit of memory holds, in a real control group, the worst images that the settings allow."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from oodguard.load_tests.gateway import Gateway
from tests.helm.charts import Render

GROUPS = Path("/sys/fs/cgroup/memory")
PIXELS = 12_000_000
QUEUE_BYTES = 64 * 1024 * 1024


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


def worst() -> bytes:
    """As many pixels as the settings allow, with transparency, in a format that is decoded as a whole."""
    side = int(PIXELS**0.5)
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8), "RGBA")
    stream = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(stream, "WEBP", method=0, quality=30)
    return stream.getvalue()


def test_the_limit_that_the_chart_asks_for_holds(render: Render, bundle: Path, group: Path) -> None:
    settings = {"max_pixels": PIXELS, "max_queue_bytes": QUEUE_BYTES, "max_body_bytes": QUEUE_BYTES}
    with pytest.raises(ValueError, match=r"may take \d+ MiB") as refused:
        render("cpu", {"settings": settings, "resources": {"limits": {"memory": "1Mi"}}})
    needed = re.search(r"may take (\d+) MiB", str(refused.value))
    assert needed
    limit = int(needed[1]) * 1024 * 1024
    (group / "memory.limit_in_bytes").write_text(str(limit))
    image = worst()
    statuses: Counter[int] = Counter()
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with Gateway(bundle, *flags, "--sessions", "2", "--request-timeout", "60") as running:
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

        callers = [threading.Thread(target=ask) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert running.process.poll() is None, "killed"
        assert set(statuses) == {200}
        high = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.process.pid}/status").read_text())
        assert high
        peak = int(high[1]) * 1024
        assert peak < limit
        # Two such images were decoded at once: 36 bytes a pixel is no guess that anything would fit.
        assert peak - idle > 2 * 20 * PIXELS
