"""Abusers: callers who try to take more than their share, each described as a loop; `abuse.py` runs them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# An abuser calls from an address of its own, as far as the loopback has several.
ADDRESS = "127.0.0.2"


@dataclass(frozen=True)
class Target:
    """The server that is abused: its public port, and a photo that it judges."""

    host: str
    port: int
    photo: bytes
    tls: bool = False

    def connect(self, *, handshake: bool = True, timeout: float = 5.0) -> socket.socket:
        """One connection, from the abuser's own address."""
        plain = socket.create_connection((self.host, self.port), timeout=timeout, source_address=(ADDRESS, 0))
        if not (self.tls and handshake):
            return plain
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)


class Over(Protocol):
    """The end of an abuse, as `threading.Event` and `multiprocessing.Event` have it."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


# Abuses the target until it is over; an `OSError` begins it anew, since a good server ends such connections.
Loop = Callable[[Target, Over], None]


@dataclass(frozen=True)
class Abuser:
    """One kind of abuse: what it does, the options of `oodguard serve` that it needs, and whether it needs TLS."""

    name: str
    about: str
    loop: Loop
    flags: tuple[str, ...] = ()
    tls: bool = False

    def run(self, target: Target, over: Over) -> None:
        """Abuse until it is over; an end of a connection is no end of the abuse."""
        while not over.is_set():
            try:
                self.loop(target, over)
            except OSError:
                over.wait(0.01)


ABUSERS: dict[str, Abuser] = {}


def abuser(about: str, *flags: str, tls: bool = False) -> Callable[[Loop], Loop]:
    """Register a loop under the name of its function.

    ```python
    @abuser("opens connections and says nothing")
    def silent(target: Target, over: Over) -> None: ...
    ```
    """

    def register(loop: Loop) -> Loop:
        name = loop.__name__.replace("_", "-")
        if name in ABUSERS:
            raise ValueError(f"the abuser {name} is registered twice")
        ABUSERS[name] = Abuser(name, about, loop, flags, tls)
        return loop

    return register
