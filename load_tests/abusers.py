"""Abusers: callers who try to take more than their share, each described as a loop; `abuse.py` runs them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# An abuser calls from an address of its own, as far as the loopback has several.
ADDRESS = "127.0.0.2"


@dataclass(frozen=True)
class Target:
    """The server that is abused: its ports, a photo that it judges, and the folder of its bundle."""

    host: str
    port: int
    photo: bytes
    tls: bool = False
    private: int = 0
    bundle: Path = Path()

    @property
    def url(self) -> str:
        """The public address."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

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
    """One kind of abuse: what it does, and what it needs: options of `oodguard serve`, TLS, a server with keys.

    calls: whether it calls the server, and does not write files alone.
    """

    name: str
    about: str
    loop: Loop
    flags: tuple[str, ...] = ()
    tls: bool = False
    keyed: bool = False
    calls: bool = True

    def run(self, target: Target, over: Over) -> None:
        """Abuse until it is over; an end of a connection is no end of the abuse."""
        while not over.is_set():
            try:
                self.loop(target, over)
            except OSError:
                over.wait(0.01)


ABUSERS: dict[str, Abuser] = {}


def each(over: Over, count: int, one: Callable[[], object]) -> None:
    """Run a function on several threads, each again and again until it is over."""

    def again() -> None:
        while not over.is_set():
            try:
                one()
            except OSError:
                over.wait(0.01)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(again) for _ in range(count)]:
            future.result()


def abuser(
    about: str, *flags: str, tls: bool = False, keyed: bool = False, calls: bool = True
) -> Callable[[Loop], Loop]:
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
        ABUSERS[name] = Abuser(name, about, loop, flags, tls, keyed, calls)
        return loop

    return register
