"""What is done around every request, whatever its protocol: its id, its key, its trace, counts, one log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from oodguard.core.codes import Code
from oodguard.core.errors import OodguardError
from oodguard.core.problems import Problem, problem_of
from oodguard.server.errors import RequestError
from oodguard.server.keys import KeyRing, Role
from oodguard.server.logs import log_request
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.tracing import CURRENT, Tracing
from oodguard.server.turns import caller_of

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:/+=-]{1,128}$")


class Counted(Protocol):
    """A route or a method: `label` names it in metrics and logs, `open` spares it the key, `admin` asks for a key of
    that role, `inference` times it.
    """

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def open(self) -> bool: ...  # noqa: D102
    @property
    def admin(self) -> bool: ...  # noqa: D102
    @property
    def inference(self) -> bool: ...  # noqa: D102


class Visit:
    """One request, and how it ended: `status` is 499 while nothing was answered, `key` the name of the caller's key.

    `arrived` is when the whole request was there: only then does the server's own time begin.
    """

    def __init__(
        self, route: Counted, *, method: str, headers: Mapping[bytes, bytes], address: str | None = None
    ) -> None:
        self.started = self.arrived = time.monotonic()
        self.route = route
        self.method = method
        self.headers = headers
        self.address = address
        given = headers.get(b"x-request-id", b"")
        self.request_id = given if REQUEST_ID.match(given) else b"%032x" % random.getrandbits(128)
        self.status = 499
        self.key: str | None = None

    @property
    def caller(self) -> str:
        """Whom the request counts for; known once its key is."""
        return caller_of(self.key, self.address)

    def header(self, name: bytes) -> str | None:
        """A request header as text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Reception:
    """Says who may call, and counts, traces and logs every request."""

    def __init__(self, *, metrics: Metrics, keys: KeyRing, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._keys = keys
        self._tracing = tracing

    def expect(self, routes: Iterable[Counted]) -> None:
        """Start every series of the inference routes among these at 0."""
        self._metrics.expect(route.label for route in routes if route.inference)

    @contextmanager
    def traced(self, visit: Visit) -> Iterator[None]:
        """Trace what happens inside, where traces are on; the span ends with the visit's status."""
        if self._tracing is None or not visit.route.inference:
            yield
            return
        trace = self._tracing.begin(
            method=visit.method,
            route=visit.route.label,
            request_id=visit.request_id.decode(),
            headers=visit.headers,
        )
        token = CURRENT.set(trace)
        try:
            yield
        finally:
            CURRENT.reset(token)
            trace.end(visit.status)

    def require_key(self, visit: Visit) -> None:
        """Raise `RequestError` unless the caller may call."""
        if visit.route.open or not self._keys.needed:
            return
        key = self._keys.who(visit.header(b"authorization"), visit.header(b"x-api-key"))
        if key is None:
            raise RequestError(Code.UNAUTHORIZED, "send a valid key as Authorization: Bearer KEY or X-API-Key")
        visit.key = key.name
        if visit.route.admin and key.role is not Role.ADMIN:
            raise RequestError(Code.FORBIDDEN, "this key may ask about images only; ask with a key of the role admin")

    def refused(self, visit: Visit, error: Exception) -> Problem:
        """The problem of a request that met an error, which is counted under its code, and logged if it is our own."""
        if not isinstance(error, OodguardError):
            about = {"request_id": visit.request_id.decode(), "route": visit.route.label}
            log.error("unexpected error", exc_info=error, extra=about)
        found = problem_of(error)
        self._metrics.refuse(Code(found.code))
        return found

    def ended(self, visit: Visit) -> None:
        """Count and log a request that has ended."""
        now = time.monotonic()
        route, status = visit.route, visit.status
        self._metrics.request(route.label, status)
        if route.inference and visit.key is not None:
            self._metrics.by_key(visit.key, status)
        if route.inference and status == 200:
            self._metrics.took(route.label, now - visit.arrived)
        log_request(
            request_id=visit.request_id.decode(),
            method=visit.method,
            route=route.label,
            status=status,
            seconds=now - visit.started,
            key=visit.key,
        )
