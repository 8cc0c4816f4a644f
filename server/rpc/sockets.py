"""The sockets that gRPC has on its port. It shows none of them, so they are found among the process's own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

# Only Linux has it; elsewhere no socket is found.
DESCRIPTORS = Path("/proc/self/fd")


def stop_listening(port: int) -> None:
    """Refuse new connections to a port; those that there are go on."""
    for one in _sockets(port):
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            one.shutdown(socket.SHUT_RDWR)


def connections(port: int) -> int:
    """How many connections to a port are open."""
    return sum(_is_connected(one) for one in _sockets(port))


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def _sockets(port: int) -> Iterator[socket.socket]:
    for descriptor in DESCRIPTORS.iterdir() if DESCRIPTORS.is_dir() else ():
        try:
            one = socket.socket(fileno=int(descriptor.name))
        except OSError:  # no socket, or closed by now
            continue
        try:
            with contextlib.suppress(OSError):
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                    yield one
        finally:
            # It is gRPC's to close.
            one.detach()
