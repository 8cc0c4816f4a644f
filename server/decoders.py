"""The threads that decode the images of requests, watched as inferences are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from oodguard.core.decoding import DecodingRoom, HeavyPicture, LightRoom
from oodguard.core.preprocessing import ImageLimits, Preprocessing
from oodguard.core.quality import Picture, load_picture

# What takes more has threads and memory of its own: a PNG of 12 megapixels does, and a JPEG that is decoded at a
# reduced scale does not.
LIGHT_BYTES = 14 * 1024 * 1024
# So many ordinary photos fit into memory, of the largest that are called so.
LIGHT_AT_ONCE = 2


class Decoders:
    """Decodes images in `threads` threads, and large ones in as many others; these keep to the bytes of `room`.

    ```python
    decoders = Decoders(2, limits=settings.limits, room=DecodingRoom(settings.max_decode_bytes))
    picture = await decoders.load(data, manifest.preprocessing)
    ```

    So ordinary photos never wait for large ones, neither for a thread nor for memory: `light_room` is beside `room`.
    `pool` are the threads for ordinary photos: what else takes long of a body runs in them, too.
    """

    def __init__(
        self,
        threads: int,
        *,
        limits: ImageLimits,
        room: DecodingRoom,
        light: int = LIGHT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.room = room
        self.light_room = DecodingRoom(LIGHT_AT_ONCE * light)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._heavy_pool = ThreadPoolExecutor(threads, thread_name_prefix="decode-large")
        self._light = LightRoom(self.light_room, light)
        self._threads = threads
        self._clock = clock
        # A thread alone adds and removes its own entry.
        self._running: dict[object, float] = {}
        self._heavy: dict[object, float] = {}

    async def load(self, data: bytes, preprocessing: Preprocessing) -> Picture:
        """The graph's input of an encoded image, and its traits. Raises `ImageError`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.pool, self._load, data, preprocessing)
        except HeavyPicture:
            return await loop.run_in_executor(self._heavy_pool, self._load_heavy, data, preprocessing)

    def _load(self, data: bytes, preprocessing: Preprocessing) -> Picture:
        with self._noted(self._running):
            return load_picture(data, preprocessing, self.limits, self._light)

    def _load_heavy(self, data: bytes, preprocessing: Preprocessing) -> Picture:
        with self._noted(self._heavy):
            return load_picture(data, preprocessing, self.limits, self.room)

    @contextmanager
    def _noted(self, running: dict[object, float]) -> Iterator[None]:
        mark = object()
        running[mark] = self._clock()
        try:
            yield
        finally:
            del running[mark]

    @property
    def held(self) -> int:
        """The bytes that images take which are being decoded."""
        return self.light_room.held + self.room.held

    @property
    def busy(self) -> bool:
        """Whether an image is being decoded."""
        return bool(self._running or self._heavy)

    @property
    def oldest(self) -> float:
        """Seconds that the longest decoding has been going on; 0 when none does."""
        return self._clock() - min(
            [*self._running.copy().values(), *self._heavy.copy().values()], default=self._clock()
        )

    @property
    def stuck(self) -> float:
        """Seconds for which every thread for ordinary photos has been decoding one image; 0 while one is free."""
        running = self._running.copy()
        return self._clock() - max(running.values()) if len(running) >= self._threads else 0.0

    def close(self) -> None:
        """Begin nothing more. What is being decoded goes on."""
        for pool in (self.pool, self._heavy_pool):
            pool.shutdown(wait=False, cancel_futures=True)
