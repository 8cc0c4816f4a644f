"""Content codings of request bodies (gzip, deflate, zstd), undone piece by piece: limits hold on what comes out."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError


def _zstd() -> Any:
    """Python's zstd module, from the standard library or its backport (the extra `zstd`); None where there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


ZSTD = _zstd()
# The codings that a body may have, as `Accept-Encoding` names them.
CODINGS = ("gzip", "deflate", *(("zstd",) if ZSTD else ()))
ALIASES = {"x-gzip": "gzip", "identity": "", "": ""}
PIECE = 256 * 1024
# A sender may join streams; a body of nothing but empty ones would cost far more time than it has bytes.
MAX_STREAMS = 1024
# RFC 9659: the largest window (2^23 bytes) that a zstd body may ask of its receiver.
ZSTD_WINDOW_LOG = 23


class Decompressor(Protocol):
    """One compressed stream: the interface of `compression.zstd`."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out before something goes in."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more; what is left of `data` is kept."""


class Inflate:
    """A gzip, zlib or raw deflate stream as a `Decompressor`; `bits` as for `zlib.decompressobj`."""

    def __init__(self, bits: int) -> None:
        self._stream = zlib.decompressobj(bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the stream."""
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more; what is left of `data` is kept."""
        found = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length
        return found


class Coding:
    """The coding of one body. Feed it chunks; what comes out is at most `PIECE` bytes at a time.

    ```python
    coding = Coding.of(request.headers.get("content-encoding", ""))
    for piece in coding.pieces(chunk): ...
    coding.finish()
    ```
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._stream: Decompressor | None = None
        self._begun = b""
        self._streams = 0

    @classmethod
    def of(cls, header: str) -> Coding | None:
        """The coding that `Content-Encoding` names, or None. Raises `RequestError` for one that is not supported."""
        names = [name.strip().lower() for name in header.split(",")]
        names = [name for name in (ALIASES.get(name, name) for name in names) if name]
        if not names:
            return None
        if len(names) > 1 or names[0] not in CODINGS:
            raise RequestError(
                Code.UNSUPPORTED_BODY,
                f"content encoding {header[:80]!r} is not supported; send the body uncompressed, or in one of "
                f"{', '.join(CODINGS)}",
            )
        return cls(names[0])

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What comes out of the next bytes of the body. Raises `RequestError` for bytes that are not of this coding."""
        while chunk:
            stream = self._stream or self._next(chunk)
            if stream is None:
                return
            chunk, self._begun = self._begun + chunk, b""
            while True:
                piece = self._some(stream, chunk)
                chunk = b""
                if piece:
                    yield piece
                if stream.eof or stream.needs_input:
                    break
            if stream.eof:
                chunk, self._stream = stream.unused_data, None

    def finish(self) -> None:
        """Raise `RequestError` unless the body has ended where its last stream does."""
        if self._stream is not None or self._begun:
            raise RequestError(Code.BAD_BODY, f"the {self.name} body ends early; send all of it")

    def _next(self, chunk: bytes) -> Decompressor | None:
        """The stream that begins with these bytes; None, and the bytes are kept, while they are too few to tell."""
        first = self._begun + chunk
        if self.name == "deflate" and len(first) < 2:
            self._begun = first
            return None
        self._streams += 1
        if self._streams > (1 if self.name == "deflate" else MAX_STREAMS):
            raise RequestError(Code.BAD_BODY, f"the body goes on behind its {self.name} data; send one stream")
        self._stream = self._open(first)
        return self._stream

    def _open(self, first: bytes) -> Decompressor:
        if self.name == "gzip":
            return Inflate(16 + zlib.MAX_WBITS)
        if self.name == "deflate":
            # HTTP means zlib's format; many senders leave out its header.
            wrapped = first[0] & 15 == 8 and (first[0] << 8 | first[1]) % 31 == 0
            return Inflate(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        limit = {ZSTD.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return cast(Decompressor, ZSTD.ZstdDecompressor(options=limit))

    def _some(self, stream: Decompressor, chunk: bytes) -> bytes:
        try:
            return stream.decompress(chunk, PIECE)
        except Exception as error:
            if not isinstance(error, (zlib.error, getattr(ZSTD, "ZstdError", zlib.error))):
                raise
            raise RequestError(Code.BAD_BODY, f"the body is not {self.name} ({str(error)[:200]})") from None
