"""What surrounds every gRPC call: who may call, problems as statuses, metadata, counting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc

from oodguard.core.codes import Code
from oodguard.core.problems import Problem
from oodguard.server.errors import ClientGone, DeadlineMissed, Overloaded, RequestError
from oodguard.server.problems import sentence
from oodguard.server.reception import Reception, Visit
from oodguard.server.routes import OTHER
from oodguard.server.rpc.receiving import RETRY_AFTER, Receiving

# Statuses travel in HTTP/2 headers, whose size clients limit.
LONGEST_SENTENCE = 1000


@dataclass(frozen=True)
class RpcCall:
    """One gRPC call, as a procedure sees it. `closing` is set when the server ends."""

    visit: Visit
    context: Any
    receiving: Receiving
    closing: asyncio.Event

    async def read(self) -> bytes:
        """The request message, serialized. Raises as `Receiving.read` does."""
        return await self.receiving.read(self.context)

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller's own deadline; None where it set none."""
        seconds: float | None = self.context.time_remaining()
        return seconds


# A procedure gives its answer, serialized, or why there is none; one that streams writes by itself and gives nothing.
Answer = Callable[[RpcCall], Awaitable[bytes | Problem]]


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """One method of a gRPC service: `path` as on the wire, and `open`, `admin`, `inference` as for a route.

    `light`: its messages are a few bytes, and never wait for large ones.
    """

    path: str
    answer: Answer
    open: bool = False
    admin: bool = False
    inference: bool = False
    light: bool = True
    streams: bool = False

    @property
    def label(self) -> str:
        """How metrics and logs name the method."""
        return self.path


@dataclass(frozen=True)
class Lanes:
    """Where messages are received: small ones, and those with images."""

    light: Receiving
    heavy: Receiving


class RpcFrame:
    """Finds the procedure of a call and runs it; gRPC's generic handler."""

    def __init__(self, procedures: Sequence[Procedure], *, reception: Reception, lanes: Lanes, most_calls: int) -> None:
        self._procedures = {procedure.path: procedure for procedure in procedures}
        self._reception = reception
        self._lanes = lanes
        self._most_calls = most_calls
        self._calls = 0
        self._ended = time.monotonic()
        # To be set when the server ends: streams would go on for ever.
        self.closing = asyncio.Event()
        reception.expect(procedures)

    @property
    def quiet(self) -> float:
        """Seconds since the last call ended; 0 while one is open."""
        return 0.0 if self._calls else time.monotonic() - self._ended

    def service(self, details: Any) -> Any:
        """What gRPC is to run for a call; any path has something."""
        procedure = self._procedures.get(details.method)
        serve = partial(self._serve, procedure, details.method)
        # As streams, so that a procedure reads its message when it has room for it.
        if procedure is not None and procedure.streams:
            return grpc.stream_stream_rpc_method_handler(serve)
        return grpc.stream_unary_rpc_method_handler(serve)

    async def _serve(self, procedure: Procedure | None, path: str, _: Any, context: Any) -> bytes | None:
        visit = Visit(procedure or OTHER, method="POST", headers=_headers(context), address=_address(context))
        metadata = [("x-request-id", visit.request_id.decode())]
        context.set_trailing_metadata(tuple(metadata))
        self._calls += 1
        try:
            with self._reception.traced(visit):
                found = await self._found(procedure, path, visit, context, metadata)
                visit.status = found.status if isinstance(found, Problem) else 200
        finally:
            self._calls -= 1
            self._ended = time.monotonic()
            self._reception.ended(visit)
        if isinstance(found, Problem):
            status = grpc.StatusCode[Code(found.code).grpc_status]
            await context.abort(status, sentence(found)[:LONGEST_SENTENCE], trailing_metadata=tuple(metadata))
            return None
        return found

    async def _found(
        self, procedure: Procedure | None, path: str, visit: Visit, context: Any, metadata: list[tuple[str, str]]
    ) -> bytes | Problem:
        """The answer of a call, or why there is none."""
        try:
            self._reception.require_key(visit)
            if self._calls > self._most_calls:
                raise Overloaded(f"more than {self._most_calls} calls are open", retry_after=RETRY_AFTER)
            if procedure is None:
                known = ", ".join(name.rpartition("/")[2] for name in self._procedures)
                raise RequestError(Code.METHOD_NOT_ALLOWED, f"{path[:200]} is not served here; there are {known}")
            lane = self._lanes.light if procedure.light else self._lanes.heavy
            return await procedure.answer(RpcCall(visit, context, lane, self.closing))
        except asyncio.CancelledError:
            late = context.time_remaining() == 0
            gone = DeadlineMissed("the caller's deadline passed") if late else ClientGone("the client went away")
            visit.status = self._reception.refused(visit, gone).status
            raise
        except Exception as error:  # whatever happens, the caller gets a status
            if isinstance(error, Overloaded):
                metadata.append(("retry-after", str(error.retry_after)))
                # What gRPC's own retries wait for.
                metadata.append(("grpc-retry-pushback-ms", str(1000 * error.retry_after)))
            return self._reception.refused(visit, error)


def _headers(context: Any) -> Mapping[bytes, bytes]:
    """A call's metadata as request headers."""
    given = context.invocation_metadata() or ()
    return {name.encode(): value if isinstance(value, bytes) else value.encode("latin-1") for name, value in given}


def _address(context: Any) -> str | None:
    """The address of a call's peer, which gRPC writes as ipv4:10.0.0.7:1234 or ipv6:%5Bfd00::5%5D:1234."""
    kind, _, rest = unquote(context.peer() or "").partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
