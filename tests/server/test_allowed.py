"""Defaults that follow from cores and memory, and a server on a machine of 64 cores of which it may use two."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from oodguard.core.allowance import ResourceAllowance
from oodguard.core.decoding import DECODING_BYTES
from oodguard.load_tests.gateway import Gateway
from oodguard.server.allowed import PROGRAM_BYTES, allowed, warn_of_memory
from oodguard.server.settings import ServeSettings
from tests.core.test_allowance import V2_MOUNT, write

MIB = 2**20
SMALL = {"max_pixels": 1_000_000, "max_body_bytes": 4 * MIB}


def settled(cores: int, memory: int | None, **given: Any) -> ServeSettings:
    return allowed(ServeSettings(bundle=Path("bundle"), **given), ResourceAllowance(cores=cores, memory=memory))


def test_decoders_follow_the_cores() -> None:
    assert [settled(cores, None).decode_workers for cores in (1, 2, 4, 6, 16, 400)] == [2, 2, 2, 3, 8, 64]
    assert settled(64, None, decode_workers=3).decode_workers == 3
    # Where inferences at once are given, it is these that they feed.
    assert settled(64, None, sessions=6).decode_workers == 3


def test_bytes_follow_the_memory() -> None:
    plenty = settled(2, 64 * 2**30, **SMALL)
    assert (plenty.max_queue_bytes, plenty.max_decode_bytes) == (256 * MIB, DECODING_BYTES)
    scarce = settled(2, PROGRAM_BYTES + 120 * MIB, **SMALL)
    assert (scarce.max_queue_bytes, scarce.max_decode_bytes) == (30 * MIB, 60 * MIB)
    # Two workers are two programs.
    less = settled(2, 2 * PROGRAM_BYTES + 120 * MIB, workers=2, **SMALL)
    assert (less.max_queue_bytes, less.max_decode_bytes) == (30 * MIB, 60 * MIB)


def test_what_was_given_stays() -> None:
    given = settled(2, PROGRAM_BYTES + 120 * MIB, max_queue_bytes=200 * MIB, max_decode_bytes=500 * MIB, **SMALL)
    assert (given.max_queue_bytes, given.max_decode_bytes) == (200 * MIB, 500 * MIB)


def test_the_largest_request_always_fits(caplog: pytest.LogCaptureFixture) -> None:
    memory = 500 * MIB
    tight = settled(2, memory)
    assert tight.max_queue_bytes == tight.max_body_bytes
    # What it is made of is checked again.
    assert ServeSettings(**tight.model_dump(exclude_unset=True)) == tight
    with caplog.at_level(logging.WARNING):
        warn_of_memory(tight, ResourceAllowance(cores=2, memory=memory))
        assert "and it may have 500: lower --max-pixels" in caplog.text
        caplog.clear()
        warn_of_memory(tight, ResourceAllowance(cores=2, memory=64 * 2**30))
        warn_of_memory(tight, ResourceAllowance(cores=2, memory=None))
    assert caplog.text == ""


def test_a_quota_of_two_cores_on_64_is_two_cores(bundle: Path, tmp_path: Path) -> None:
    root = write(
        tmp_path / "root",
        {
            "proc/self/mountinfo": V2_MOUNT,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/memory.max": f"{2**30}\n",
        },
    )
    program = tmp_path / "serve.py"
    program.write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "os.sched_getaffinity = lambda _: set(range(64))\n"
        "os.cpu_count = lambda: 64\n"
        "from oodguard.core import allowance\n"
        f"allowance.ROOT = Path({str(root)!r})\n"
        "from oodguard.cli.__main__ import main\n"
        "sys.exit(main())\n"
    )
    gateway = Gateway(bundle)
    gateway._command = [sys.executable, str(program), "serve", str(bundle)]
    with gateway as running:
        assert "(2 x 1 threads" in running.output()
        assert running.rss() < 600e6
        assert running.sample('oodguard_limit{setting="max_queue_bytes"}') == (2**30 - PROGRAM_BYTES) // 4
        assert httpx.get(f"{running.url}/health/ready").status_code == 200
