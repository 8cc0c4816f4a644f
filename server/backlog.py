"""How much may wait for something slow: a bounded number of images, and of their bytes."""

from __future__ import annotations

import threading


class Backlog:
    """Places for images that wait. What finds no place is to be dropped, so that a slow taker fills no memory.

    ```python
    if backlog.enter(len(data)):
        thread.submit(work)  # which calls backlog.leave(len(data))
    ```

    One image is let in however large it is. Threads may share a backlog.
    """

    def __init__(self, *, images: int, size: int) -> None:
        self._max_images = images
        self._max_bytes = size
        self._images = self._bytes = 0
        self._lock = threading.Lock()

    def enter(self, size: int) -> bool:
        """Take a place for an image of `size` bytes; False when there is none."""
        with self._lock:
            if self._images and (self._images >= self._max_images or self._bytes + size > self._max_bytes):
                return False
            self._images += 1
            self._bytes += size
            return True

    def leave(self, size: int) -> None:
        """Give the place of an image of `size` bytes back."""
        with self._lock:
            self._images -= 1
            self._bytes -= size
