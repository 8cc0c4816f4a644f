"""Who is next: callers take turns at the decoders and the engine, each as often as its weight says."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count

# A network that one caller is given as a whole.
IPV6_NETWORK = 64
KEY = "key:"


def caller_of(key: str | None, address: str | None) -> str:
    """Whom a request counts for: the name of its key, else the address that it came from.

    An IPv6 address counts for its network of 64 bits, which one caller has to itself.
    """
    return f"{KEY}{key}" if key is not None else _network(address or "")


@lru_cache(maxsize=1024)
def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = found.ipv4_mapped
    return str(mapped or ipaddress.ip_network((found, IPV6_NETWORK), strict=False))


class Weights:
    """How much of the server each caller may claim beside others: 1, unless its key has a weight of its own."""

    def __init__(self, by_key: Mapping[str, float] | None = None) -> None:
        self._by_caller = {f"{KEY}{name}": weight for name, weight in (by_key or {}).items()}

    def of(self, caller: str) -> float:
        """The weight of a caller."""
        return self._by_caller.get(caller, 1.0)


class Turns:
    """Lets at most `at_once` images be worked on, and gives the next turn to whom the least was given, by weight.

    ```python
    await turns.take(caller)
    try:
        ...
    finally:
        turns.give_back()
    ```

    Start-time fair queueing: an image of a caller is due one over its weight after the caller's last one, or now.
    """

    def __init__(self, at_once: int, weights: Weights) -> None:
        self._free = at_once
        self._weights = weights
        self._waiting: list[tuple[float, int, str, asyncio.Future[None]]] = []
        self._waiting_of: Counter[str] = Counter()
        self._due: dict[str, float] = {}
        self._now = 0.0
        self._number = count()

    async def take(self, caller: str) -> None:
        """Wait for a turn; without a wait where there is one."""
        if self._free:
            self._free -= 1
            return
        due = max(self._now, self._due.get(caller, 0.0)) + 1.0 / self._weights.of(caller)
        self._due[caller] = due
        self._waiting_of[caller] += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (due, next(self._number), caller, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """End a turn: the next one begins."""
        while self._waiting:
            due, _, caller, turn = heappop(self._waiting)
            self._waiting_of[caller] -= 1
            if not self._waiting_of[caller]:
                # Who waits for nothing is owed nothing, and owes nothing.
                del self._waiting_of[caller], self._due[caller]
            if not turn.done():
                self._now = due
                turn.set_result(None)
                return
        self._free += 1
