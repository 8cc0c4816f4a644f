"""The public port where it speaks TLS: connections are taken only while they fit, also before they shake hands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

BACKLOG = 2048
# Connections taken before other work gets its turn.
AT_ONCE = 64
# Seconds without accepting after the kernel refused a descriptor.
PAUSE = 1.0


class TlsDoor:
    """Takes TLS connections from a bound socket while fewer than `most` are open or shaking hands; closes the others.

    An event loop's own server hands a connection to its protocol only once the handshake has ended. Callers who never
    begin one would so take every descriptor of the process, without one of them being counted.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        context: ssl.SSLContext,
        handshake_timeout: float,
        full: Callable[[int], bool],
    ) -> None:
        """`full(n)`: whether there is no room for one more beside `n` that shake hands."""
        self._listening = listening
        self._protocol = protocol
        self._context = context
        self._timeout = handshake_timeout
        self._full = full
        self._shaking: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to take connections."""
        self._listening.listen(BACKLOG)
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Take no more connections; those that shake hands go on."""
        self._loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # The socket stays readable, so the loop would ask again at once.
                self.close()
                self._pause = self._loop.call_later(PAUSE, self.open)
                return
            if self._full(len(self._shaking)):
                connection.close()
                continue
            task = self._loop.create_task(self._shake(connection))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake(self, connection: socket.socket) -> None:
        # A caller who cannot shake hands is no news: his connection has ended.
        with contextlib.suppress(OSError, TimeoutError):
            await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=self._timeout
            )
