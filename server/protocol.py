"""The HTTP connection: uvicorn's httptools protocol with the limits it lacks."""

from __future__ import annotations

import asyncio
import random
import re
import urllib.parse
from typing import Any, ClassVar

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError
from oodguard.server.framing import Framing
from oodguard.server.incidents import Incidents
from oodguard.server.outlet import Cycle, Flow, Hall, Outlet, refusal
from oodguard.server.settings import ServeSettings

# What a client had sent before it could know that the port closes arrives within this.
LAST_WORDS = 0.25
# Header fields and tokens of `Connection` with which a client offers another protocol.
OFFER = (b"upgrade", b"http2-settings")
# So much of a body is read after its request was refused, so that the connection can go on; then it ends.
DISCARDED = 64 * 1024
# Seconds in which a caller who is still sending can read why the connection ends.
LINGER = 0.5
# Bytes of requests behind those that are being answered, over all connections.
MOST_AHEAD = 32 * 1024 * 1024
# RFC 9112, 3.2: a name or an address, and a port.
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


class LimitedProtocol(HttpToolsProtocol):
    """One connection, which is served one request at a time; what its caller may not do ends here.

    The head's time starts with the connection, or with the first byte of a later request; a client that sends
    nothing, or one byte a second, is cut off without ever costing a task. While a request is answered, what comes
    behind it stays unread. A caller who takes no answer, or goes on sending what was refused, loses the connection.
    """

    hall: ClassVar[Hall]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.flow: Flow
        self.ending = False
        self._accepted = self.loop.time()
        self._framing = Framing(self.hall.settings.max_header_bytes)
        self._outlet = Outlet(self)
        # Read and not parsed: it comes behind a request that is being answered.
        self._ahead, self._place = b"", 0
        self._offered = False
        # Whether the whole request has arrived.
        self._whole = True
        self._to_discard = DISCARDED
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many, or expect its first request's head."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        if len(self.connections) > self.hall.most:
            self._refuse(Code.OVERLOADED, f"more than {self.hall.most} connections are open")
            return
        # A handshake was part of the time that the head may take.
        self._expect_head(self._accepted)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self.ending = True
        for name in list(self._timers):
            self._stop(name)
        self._drop_ahead()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection: after its answer, or, when it has nothing to answer, once nothing more arrives."""
        if self.cycle is None or self.cycle.response_complete:
            # Closing now would reset a connection whose request is on its way or not read yet.
            self.loop.call_later(LAST_WORDS, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.finish()
        else:
            self.cycle.keep_alive = False

    def finish(self) -> None:
        """End the connection in order: what was written still has its time to be taken."""
        if self.ending:
            return
        self.ending = True
        for name in [name for name in self._timers if name != "write"]:
            self._stop(name)
        self._unset_keepalive_if_required()
        nothing_comes = self._whole and not self._ahead
        self._drop_ahead()
        if nothing_comes:
            self._close()
            return
        # The caller is still sending. To close now is to reset, and the reset may overtake the answer.
        self._to_discard = DISCARDED
        self.flow.release()
        self._start("linger", LINGER, self.transport.abort)

    def _close(self) -> None:
        self.transport.close()
        # What nobody takes, and a goodbye that nobody answers, would hold it open for ever.
        self._start("end", self.hall.settings.write_timeout, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that was idle for long."""
        self.finish()

    # What is read.

    def data_received(self, data: bytes) -> None:
        """Read on, within the limits."""
        if self.ending:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        if self._ahead or self._answering:
            self._keep(data)
        else:
            self._read(data, 0)

    @property
    def _answering(self) -> bool:
        """Whether a request has arrived whole and is not answered yet."""
        return self._whole and self.cycle is not None and not self.cycle.response_complete

    def _read(self, data: bytes, place: int) -> None:
        """Parse one request after the other, each once the one before it is answered."""
        while place < len(data) and not self.ending:
            if self._answering:
                self._keep(data, place)
                return
            if self._framing.in_head and "head" not in self._timers:
                self._unset_keepalive_if_required()
                self._expect_head(self.loop.time())
            refused = not self._framing.in_head and self.cycle.response_complete
            try:
                end = self._framing.end(data, place)
            except RequestError as error:
                self._refuse(error.code, str(error))
                return
            if refused and not self._discard(end - place):
                return
            self._parse(data if end - place == len(data) else memoryview(data)[place:end])
            place = end

    def _keep(self, data: bytes, place: int = 0) -> None:
        """Put aside what comes behind a request that is being answered, and read no more until it is."""
        if self._ahead:
            data, place = self._ahead[self._place :] + data[place:], 0
        self._drop_ahead()
        if self.hall.ahead + len(data) > MOST_AHEAD:
            # RFC 9112, 9.3.2: a caller who sends ahead repeats what was not answered.
            self.cycle.keep_alive = self._whole = False
        else:
            self._ahead, self._place = data, place
            self.hall.ahead += len(data)
        self.flow.hold()

    def _drop_ahead(self) -> None:
        self.hall.ahead -= len(self._ahead)
        self._ahead, self._place = b"", 0

    def _discard(self, size: int) -> bool:
        """Count bytes that nobody reads; False, and the connection ends, once they are too many."""
        self._to_discard -= size
        if self._to_discard >= 0:
            return True
        self.finish()
        # The sender's own buffers fill up; it is not asked for more.
        self.flow.hold()
        return False

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._decline()
        except httptools.HttpParserError as error:
            found = error.__context__
            detail = str(found) if isinstance(found, RequestError) else "the request is not valid HTTP/1.1"
            self.send_400_response(f"{detail}; send it as the standard says")

    def _decline(self) -> None:
        """Read a request whose client offered another protocol (`curl --http2`) again, without the offer.

        A server that does not take an offer answers as if there were none (RFC 9110, 7.8), but the parser would
        give everything behind the head to the protocol that was offered: the body would be lost.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is for proxies; send the request to the server itself")
            return
        self._offered = False
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(token for token in value.split(b",") if token.strip().lower() not in OFFER)
            if name not in OFFER:
                head.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join([*head, b"", b""]))

    # What the parser finds.

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._whole = False
        self._to_discard = DISCARDED
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; those behind the body are nobody's."""
        if self._framing.in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head, and begin to answer."""
        self._offered = self.parser.should_upgrade()
        if self._offered:
            return
        version, method = self.parser.get_http_version(), self.parser.get_method().decode("ascii")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (version == "1.1" and not hosts) or not all(map(HOST.fullmatch, hosts)):
            raise RequestError(Code.BAD_REQUEST, "the request has no Host, two of them, or one that names no host")
        target = httptools.parse_url(self.url)
        self._framing.body(self.headers)
        self._stop("head")
        path = target.path.decode("ascii")
        self.scope["method"], self.scope["http_version"] = method, version
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"], self.scope["query_string"] = target.path, target.query or b""
        self.cycle = Cycle(
            scope=self.scope,
            transport=self._outlet,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.lasts = self._lasts
        self._start_asgi_task(self.cycle, self.app)

    def on_message_complete(self) -> None:
        """End the request, unless it is to be read again."""
        if self._offered:
            return
        self._whole = True
        self._framing.begin()
        if self.cycle.response_complete:
            self._go_on()
        else:
            super().on_message_complete()

    def _lasts(self) -> bool:
        """Whether another request may follow: not where more of a refused body would have to be read than is."""
        return self._whole or self._framing.ends_within(DISCARDED)

    # What is written.

    def put(self, data: bytes) -> None:
        """Write a part of an answer, unless the connection is ending."""
        if not self.ending:
            self.transport.write(data)

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the rest of a body that was refused half-way."""
        self.server_state.total_requests += 1
        if self.ending or self.transport.is_closing():
            return
        if self._whole:
            self._go_on()
        else:
            # Its sender holds the connection as long as any other.
            self._start("rest", self.hall.settings.body_timeout, self.finish)
            self.flow.release()

    def _go_on(self) -> None:
        self._stop("rest")
        data, place = self._ahead, self._place
        self._drop_ahead()
        if data:
            self._read(data, place)
        if self.ending or self._ahead:
            return
        self.flow.release()
        if self._whole and not self._answering and "head" not in self._timers:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def pause_writing(self) -> None:
        """Give the caller time to take what was written."""
        super().pause_writing()
        self._start("write", self.hall.settings.write_timeout, self._not_taken)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        self._stop("write")

    def _not_taken(self) -> None:
        self._tell("an answer was not taken in time; the connection was ended")
        self.transport.abort()

    # Timers, and refusals.

    def _start(self, name: str, seconds: float, then: Any) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, then)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _expect_head(self, since: float) -> None:
        left = since + self.hall.settings.header_timeout - self.loop.time()
        self._start("head", max(0.0, left), self._too_slow)

    def _too_slow(self) -> None:
        seconds = self.hall.settings.header_timeout
        self._refuse(Code.TOO_SLOW, f"the request head did not arrive within {seconds:g} s")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem document."""
        self._refuse(Code.BAD_REQUEST, msg)

    def _tell(self, why: str, code: Code | None = None, request_id: str = "") -> None:
        address = self.client[0] if self.client else "unix"
        request_id = request_id or f"{random.getrandbits(128):032x}"
        if code is None:
            self.hall.incidents.tell(why, address=address, request_id=request_id)
        else:
            self.hall.incidents.refused(code, why, address=address, request_id=request_id)

    def _refuse(self, code: Code, detail: str) -> None:
        """Say why the connection ends, unless an answer to the same request has begun."""
        if self.ending:
            return
        request_id = f"{random.getrandbits(128):032x}"
        self._tell(detail, code, request_id)
        reading = self.cycle is not None and not self._framing.in_head
        if not (reading and self.cycle.response_started):
            self.transport.write(refusal(code, detail, request_id))
        if reading:
            # Whoever works on it need not go on.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.finish()


def protocol_for(settings: ServeSettings, incidents: Incidents, *, most: int) -> type[LimitedProtocol]:
    """The protocol class with the limits of `settings`, for at most `most` connections at once."""
    return type("LimitedProtocol", (LimitedProtocol,), {"hall": Hall(settings, incidents, most)})
