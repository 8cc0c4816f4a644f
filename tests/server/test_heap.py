"""What a large picture took is given back; glibc alone would keep it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Takes four blocks of 24 MiB, ends them in the order in which a heap keeps them, and prints what stays.
KEPT = """
import re, sys
from pathlib import Path
import numpy as np
from oodguard.server.heap import map_large_blocks

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

if sys.argv[1] == "mapped":
    assert map_large_blocks()
block = 24 << 20
# The first that is freed would have glibc take the next from its heap.
np.ones(block, np.uint8)
before = resident()
blocks, small = [], []
for _ in range(4):
    blocks.append(np.ones(block, np.uint8))
    small.append(np.ones(100_000, np.uint8))
del blocks
print((resident() - before) // block)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
@pytest.mark.parametrize(("how", "kept"), [("mapped", 0), ("as it is", 4)])
def test_large_blocks_go_back_to_the_system(how: str, kept: int) -> None:
    found = subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, text=True, timeout=60)
    assert found.stderr == ""
    assert int(found.stdout) == kept
