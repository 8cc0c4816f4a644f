"""Where a worker gets its connections from: the fleet accepts them and hands them over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

# Connections taken before other work gets its turn.
AT_ONCE = 64


class Hatch:
    """Takes connections out of a socket through which the fleet hands them over, and shakes hands where there is TLS.

    ```python
    hatch = Hatch(handed, protocol, context=None, handshake_timeout=5.0)
    hatch.open()
    ```

    `received` counts them.
    """

    def __init__(
        self,
        handed: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        context: ssl.SSLContext | None,
        handshake_timeout: float,
        full: Callable[[int], bool],
    ) -> None:
        """`full(n)`: whether there is no room for one more beside `n` that are being taken."""
        self._handed = handed
        self._protocol = protocol
        self._context = context
        self._timeout = handshake_timeout if context else None
        self._full = full
        self._taking: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.received = 0
        handed.setblocking(False)

    @property
    def taking(self) -> int:
        """Connections that are not with their protocol yet."""
        return len(self._taking)

    def open(self) -> None:
        """Begin to take connections."""
        self._loop.add_reader(self._handed, self._take)

    async def close(self) -> None:
        """Take those that were handed over, and no more."""
        self._loop.remove_reader(self._handed)
        while self._take():
            pass
        await asyncio.gather(*self._taking, return_exceptions=True)
        self._handed.close()

    def _take(self) -> bool:
        """Take some connections; whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                # One byte, one connection.
                word, descriptors, _, _ = socket.recv_fds(self._handed, 1, 1)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                word, descriptors = b"", []
            if not word:
                # The fleet is gone, or this process may open no more files.
                self._loop.remove_reader(self._handed)
                return False
            self.received += 1
            for descriptor in descriptors:
                self._begin(socket.socket(fileno=descriptor))
        return True

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if self._context is not None and self._full(self.taking):
            # Without a handshake, nobody can be told why.
            connection.close()
            return
        task = self._loop.create_task(self._connect(connection))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _connect(self, connection: socket.socket) -> None:
        # A caller who cannot shake hands is no news: his connection has ended.
        with contextlib.suppress(OSError, TimeoutError):
            await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=self._timeout
            )
