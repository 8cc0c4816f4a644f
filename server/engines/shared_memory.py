"""Images for a Triton on the same machine, in memory that both processes map."""

from __future__ import annotations

import contextlib
import os
import secrets
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from oodguard.server.engines.base import Batch


class SharedInputs:
    """One region of `places` for one image each; a request holds its place until it ends.

    A request that gave up may leave its place while Triton still reads the image there. The next request in that place
    then changes an image whose answer is no longer read.
    """

    def __init__(self, *, places: int, image_bytes: int) -> None:
        self.name = f"oodguard-{os.getpid()}-{secrets.token_hex(4)}"
        self._image_bytes = image_bytes
        self._memory = SharedMemory(self.name, create=True, size=places * image_bytes)
        self._free = list(range(places))

    def put(self, images: Batch, tensor: Any) -> int | None:
        """Lay an image down and make `tensor` point to it: its place; None, and nothing done, where none is free."""
        if images.nbytes > self._image_bytes or not self._free:
            return None
        place = self._free.pop()
        offset = place * self._image_bytes
        np.ndarray(images.shape, np.uint8, buffer=self._memory.buf, offset=offset)[:] = images
        tensor.set_shared_memory(self.name, images.nbytes, offset)
        return place

    def give_back(self, place: int) -> None:
        """Free a place."""
        self._free.append(place)

    async def register(self, client: Any) -> None:
        """Make the region known to a server, which may have forgotten it. Raises tritonclient's exception."""
        await self.unregister(client)
        await client.register_system_shared_memory(self.name, f"/{self.name}", self._memory.size)

    async def unregister(self, client: Any) -> None:
        """Let a server forget the region."""
        with contextlib.suppress(InferenceServerException):
            await client.unregister_system_shared_memory(self.name)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        self._memory.unlink()
