"""The threads that decode the images of requests, watched as inferences are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from oodguard.core.decoding import DecodingRoom
from oodguard.core.preprocessing import ImageLimits, Pixels, Preprocessing, load_pixels


class Decoders:
    """Decodes images in `threads` threads, which hold at most the bytes of `room` together.

    ```python
    decoders = Decoders(2, limits=settings.limits, room=DecodingRoom(settings.max_decode_bytes))
    pixels = await decoders.load(data, manifest.preprocessing)
    ```

    `pool` are the threads themselves: what else takes long of a body runs in them, too.
    """

    def __init__(
        self, threads: int, *, limits: ImageLimits, room: DecodingRoom, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.room = room
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._threads = threads
        self._clock = clock
        # A thread alone adds and removes its own entry.
        self._running: dict[object, float] = {}

    async def load(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        """The graph's input of an encoded image. Raises `ImageError`."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self._load, data, preprocessing)

    def _load(self, data: bytes, preprocessing: Preprocessing) -> Pixels:
        mark = object()
        self._running[mark] = self._clock()
        try:
            return load_pixels(data, preprocessing, self.limits, self.room)
        finally:
            del self._running[mark]

    @property
    def busy(self) -> bool:
        """Whether an image is being decoded."""
        return bool(self._running)

    @property
    def oldest(self) -> float:
        """Seconds that the longest decoding has been going on; 0 when none does."""
        return self._clock() - min(self._running.copy().values(), default=self._clock())

    @property
    def stuck(self) -> float:
        """Seconds for which every thread has been decoding one and the same image; 0 while one is free."""
        running = self._running.copy()
        return self._clock() - max(running.values()) if len(running) >= self._threads else 0.0

    def close(self) -> None:
        """Begin nothing more. What is being decoded goes on."""
        self.pool.shutdown(wait=False, cancel_futures=True)
