"""The public port of several workers: who accepts its connections, and who gets them."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from oodguard.server.workers.crew import Crew

BACKLOG = 2048
# Connections accepted before other work gets its turn.
AT_ONCE = 64
# Seconds until the next try where no worker takes a connection, or this process may open no more files.
PAUSE = 0.02


class Doorkeeper:
    """Accepts connections and hands each to the worker that has the fewest.

    The kernel would spread them by a hash (`SO_REUSEPORT`), or to whoever wakes up first: sixteen callers that keep
    their connections leave some of eight workers idle then. And those that wait in the kernel outlive every worker.
    """

    def __init__(self, listening: socket.socket, crew: Crew) -> None:
        self._listening = listening
        self._crew = crew
        self._loop = asyncio.get_running_loop()
        self._held: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to accept."""
        self._listening.listen(BACKLOG)
        self._listening.setblocking(False)
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        if self._held is None or self._hand(self._held):
            self._held = None
            self._loop.add_reader(self._listening, self._accept)
        else:
            self._pause = self._loop.call_later(PAUSE, self._resume)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._wait()
                return
            if not self._hand(connection):
                self._held = connection
                self._wait()
                return

    def _wait(self) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(PAUSE, self._resume)

    def _hand(self, connection: socket.socket) -> bool:
        """Hand a connection to a worker; False where none takes it now."""
        able = [worker for worker in self._crew.workers if worker.started]
        for worker in sorted(able, key=lambda one: (one.problem is not None, one.load)):
            if worker.hand(connection):
                connection.close()
                return True
        return False

    def close(self) -> None:
        """Hand over what waits, and accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        if self._held is not None:
            self._hand(self._held)
        # Closing the socket would reset them, requests and all.
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                if not self._hand(connection):
                    connection.close()
        self._listening.close()
