"""Web pages in a browser on this machine: none of a stranger may call a server that trusts whoever reaches it."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from oodguard.core.codes import Code
from oodguard.server.addresses import UNIX, is_local
from oodguard.server.errors import RequestError

SAFE = ("GET", "HEAD", "OPTIONS")
ELSEWHERE = (b"cross-site", b"same-site")


class Pages:
    """Guards a port of the loopback, where being there is the only proof.

    A page cannot listen to what it may not read, but it can post; and where a name of its own leads to the loopback
    (DNS rebinding), it can read, too. So the name by which the server is called must be one that nobody can rebind,
    and what changes something must not come from another page.
    """

    def __init__(self, host: str, *, keyless: bool, names: Collection[str] = (), origins: Collection[str] = ()) -> None:
        """`host`: where the port listens; `keyless`: whether some of it is open to callers without a key.

        `names`: more names of the server; `origins`: of pages that may call.
        """
        self.needed = keyless and is_local(host) and not host.startswith(UNIX)
        self._names = {name.lower() for name in (host, *names)}
        self._origins = frozenset(origins)

    def require(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise `RequestError` for a request that a stranger's page may have made."""
        asked = headers.get(b"host", b"").decode("latin-1").lower()
        name = _name(asked)
        if not (name in self._names or _cannot_be_rebound(name)):
            raise RequestError(
                Code.FORBIDDEN,
                f"this server has no keys and is not called {name[:80]!r}; call it localhost, or add the name to "
                "--host-names",
            )
        if method in SAFE:
            return
        origin = headers.get(b"origin")
        given = None if origin is None else origin.decode("latin-1")
        if given in self._origins or (given is not None and urlsplit(given).netloc.lower() == asked != ""):
            return
        if given is not None or headers.get(b"sec-fetch-site") in ELSEWHERE:
            raise RequestError(
                Code.FORBIDDEN, "a page of another origin sent this; name its origin in --cors-origins, or use keys"
            )


def _name(host: str) -> str:
    """The name of a Host, without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _cannot_be_rebound(name: str) -> bool:
    """Whether no stranger can make the name lead here: an address, a name without a domain, or localhost's own."""
    if "." not in name.rstrip(".") or name.rstrip(".").endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
