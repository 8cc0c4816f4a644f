"""Multipart bodies, parsed while they arrive: nothing is spooled to disk, and every limit holds before it is passed."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.server.errors import RequestError
from oodguard.server.settings import ServeSettings

MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 8 * 1024


class FilePart:
    """One part that was sent as a file."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.data = bytearray()
        self.error: ImageError | None = None


class FileCollector:
    """Feed it chunks of a multipart body; `files` are its file parts, in order. Other fields are skipped.

    Raises `RequestError` for a body that is not multipart or holds more than `max_files` files. A file that is too
    large is that file's error: its bytes are dropped, the others are kept.
    """

    def __init__(self, content_type: str, settings: ServeSettings) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary or len(boundary) > 256:
            raise RequestError(Code.BAD_BODY, "the multipart body cannot be read (no usable boundary)")
        self.files: list[FilePart] = []
        self._max_files = settings.max_files
        self._max_bytes = settings.max_image_bytes
        self._part: FilePart | None = None
        self._headers: dict[str, bytearray] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._header_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._text,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_done,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(Code.BAD_BODY, f"the multipart body cannot be read ({error})") from None

    def finish(self) -> list[FilePart]:
        """The files, once the body is complete."""
        if not self._ended:
            raise RequestError(Code.BAD_BODY, "the multipart body ends before its closing boundary")
        return self.files

    def _begin(self) -> None:
        self._part = None
        self._headers = {}
        self._header_bytes = 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._count(end - start)

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_PART_HEADER_BYTES or len(self._headers) > MAX_PART_HEADERS:
            raise RequestError(Code.BAD_BODY, "the multipart body cannot be read (part headers too large)")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name, self._value = bytearray(), bytearray()

    def _headers_done(self) -> None:
        _, options = parse_options_header(bytes(self._headers.get("content-disposition", b"")))
        if b"filename" not in options:
            return
        if len(self.files) >= self._max_files:
            raise RequestError(Code.TOO_MANY_FILES, f"the request holds more than {self._max_files} images")
        name = options[b"filename"].decode("utf-8", "replace")
        self._part = FilePart(name or None)
        self.files.append(self._part)

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None or part.error is not None:
            return
        if len(part.data) + end - start > self._max_bytes:
            part.data = bytearray()
            part.error = ImageError(Code.TOO_MANY_BYTES, f"the image has more than {self._max_bytes:,} bytes")
            return
        part.data += data[start:end]

    def _end(self) -> None:
        self._ended = True
