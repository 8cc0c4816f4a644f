"""Memory for decoding that the processes of one server share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from oodguard.core.decoding import DecodingRoom
from oodguard.server.cells import DECODING, MappedCells

# Seconds between two looks of a picture that waits for another worker's; for its own worker's it waits for the notice.
LOOK = 0.005


class SharedRoom(DecodingRoom):
    """How many bytes the decoders of all workers together may hold.

    ```python
    room = SharedRoom(1 << 30, MappedCells(mine, others=others, guard=guard))
    ```

    What a worker holds is in its cells, so what a killed one held is free once its cell is 0. A lock of the kernel
    guards the sum: it is free as soon as the process that holds it ends.
    """

    def __init__(self, size: int, cells: MappedCells) -> None:
        super().__init__(size)
        self._cells = cells
        self._guard = cells.guard

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """As `DecodingRoom.hold`, beside what the other workers hold."""
        if size > self.size:
            with super().hold(size):  # says why not
                return
        with self._changed:
            self.waiting += 1
            try:
                while not self._changed.wait_for(lambda: self._take(size), LOOK):
                    pass
            finally:
                self.waiting -= 1
        try:
            yield
        finally:
            with self._changed:
                self._take(-size)
                self._changed.notify_all()

    def _take(self, size: int) -> bool:
        """Hold so much more, if there is room; one thread at a time."""
        fcntl.lockf(self._guard, fcntl.LOCK_EX)
        try:
            if size > 0 and self.held + sum(row[DECODING] for row in self._cells.others) + size > self.size:
                return False
            self.held += size
            self._cells.row[DECODING] = self.held
            return True
        finally:
            fcntl.lockf(self._guard, fcntl.LOCK_UN)
