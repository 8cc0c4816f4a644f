"""The protocol every engine follows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from oodguard.export.contract import Outputs

Batch = npt.NDArray[np.uint8]


class Engine(Protocol):
    """Runs a bundle's graph on batches of pixels.

    `infer` takes uint8 `[B, H, W, 3]` and returns `Outputs`; it raises `EngineError` for a batch that failed and
    `EngineUnavailable` once closed. It may be called `slots` times at once; more calls than that only wait.
    """

    name: str
    device: str
    slots: int

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch. The caller keeps `images` unchanged until it returns."""

    async def close(self) -> None:
        """Release everything; further calls of `infer` fail."""
