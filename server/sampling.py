"""Keeping a sample of the flagged images, so that people can label what the guard did not know. Off by default.

The pictures that callers send are written to disk: say so in your privacy notice, and let the folder expire.
"""

from __future__ import annotations

import os
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from oodguard.export.contract import Verdict
from oodguard.server.contract import FlaggedSample, ModelRef
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.training.errors import EnvironmentProblem

# First bytes of what the decoder reads, and the suffix that `oodguard review` looks for.
KINDS = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"RIFF", ".webp"),
)
# More than this waiting for the disk is dropped: a slow disk must not become memory.
WAITING = 16


class Sampler:
    """Writes a share of the flagged images, each with its verdict beside it, until the folder is full.

    ```python
    sampler = Sampler(Path("flagged"), rate=0.1, max_bytes=2**28, metrics=metrics)
    sampler.offer(data, verdict, model=ref, accept=0.95)
    ```

    Raises `EnvironmentProblem` when the folder cannot be written.
    """

    def __init__(self, folder: Path, *, rate: float, max_bytes: int, metrics: Metrics, seed: int | None = None) -> None:
        self._folder = folder
        self._rate = rate
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._random = random.Random(seed)
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            if not os.access(folder, os.W_OK):
                raise PermissionError(None, "it is not writable")
        except OSError as error:
            raise EnvironmentProblem(f"flagged images cannot be kept in {folder}: {error.strerror or error}") from None

    def offer(self, data: bytes, verdict: Verdict, *, model: ModelRef, accept: float) -> None:
        """Keep the image if it is flagged and the dice say so. Never waits and never raises."""
        if not verdict.is_ood or self._random.random() >= self._rate:
            return
        if self._waiting >= WAITING or self._bytes + len(data) > self._max_bytes:
            self._metrics.samples["dropped"].inc()
            return
        self._waiting += 1
        self._bytes += len(data)
        sample = FlaggedSample.of(verdict, model=model, accept=accept, time=datetime.now(UTC))
        self._thread.submit(self._write, data, sample)

    def _write(self, data: bytes, sample: FlaggedSample) -> None:
        stem = f"{sample.time:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
        suffix = next((suffix for magic, suffix in KINDS if data.startswith(magic)), ".jpg")
        try:
            # The sidecar last: an image without one is a pair still being written.
            self._put(self._folder / f"{stem}{suffix}", data)
            self._put(self._folder / f"{stem}.json", sample.model_dump_json().encode())
            self._metrics.samples["kept"].inc()
        except OSError as error:
            self._metrics.samples["dropped"].inc()
            log.error("a flagged image could not be kept: %s", error.strerror or error)
        finally:
            self._waiting -= 1

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_bytes(data)
        unfinished.rename(path)

    def close(self) -> None:
        """Write what waits."""
        self._thread.shutdown(wait=True)
