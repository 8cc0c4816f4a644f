"""The protocol every engine follows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from oodguard.core.verdict import Outputs

Batch = npt.NDArray[np.uint8]


class Engine(Protocol):
    """Runs a bundle's graph on batches of pixels.

    `infer` takes uint8 `[B, H, W, 3]` and returns `Outputs`, with neighbours where the graph has them; it raises
    `EngineError` for a batch that failed and `EngineUnavailable` once closed. It may be called `slots` times at once;
    more calls than that only wait.
    """

    name: str
    device: str
    slots: int

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch. The caller keeps `images` unchanged until it returns."""

    async def close(self) -> None:
        """Release everything; further calls of `infer` fail."""


class RemoteEngine(Engine, Protocol):
    """An engine on other machines, which batches by itself, may be away for a while, and comes back by itself.

    Its `infer` also raises `DeadlineMissed` and `Overloaded`.
    """

    @property
    def unreachable(self) -> str | None:
        """Why no request can be answered at the moment; None when they can."""

    async def infer(self, images: Batch, *, deadline: float | None = None, neighbours: bool = False) -> Outputs:
        """Answers for one batch, by `deadline`, a time of `time.monotonic`; `neighbours` travel only when asked for."""

    async def start(self) -> str | None:
        """Look at every server once, and from then on until closed: why none can be asked, or None.

        To be called on the event loop that infers. What it says is for the operator; `unreachable` is for callers.
        """

    async def newest(self) -> str | None:
        """The SHA-256 of the graph that should be served now; None where the bundle alone decides."""
