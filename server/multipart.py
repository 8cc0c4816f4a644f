"""Multipart bodies, parsed while they arrive: nothing is spooled to disk, and every limit holds before it is passed."""

from __future__ import annotations

import re
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.server.base64_text import decoded
from oodguard.server.errors import RequestError
from oodguard.server.settings import ServeSettings

MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 8 * 1024
# Text that RFC 2046 lets a sender write before the first boundary.
MAX_PREAMBLE_BYTES = 8 * 1024
# Parts that are no files; and the headers of all parts together.
MAX_FIELDS = 1000
MAX_HEADER_BYTES = 256 * 1024
# Reading the options of a header takes time that grows with the square of their number.
MAX_OPTIONS = 64
# Types of bytes of any kind; what an image is, its own first bytes say.
RAW_TYPES = ("application/octet-stream", "binary/octet-stream")
# The field that the documents name.
IMAGE_FIELD = "image"
EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*[\w-]+'[^';]*'([^;\s]+)", re.IGNORECASE)


def is_image_type(kind: str) -> bool:
    """Whether a content type says that what it describes is to be read as an image."""
    return kind.startswith("image/") or kind in RAW_TYPES


class FilePart:
    """One part that was sent as a file; `unnamed`: with a file name that is empty, as of a field left empty."""

    def __init__(self, name: str | None, *, encoding: str, unnamed: bool) -> None:
        self.name = name
        self.data = bytearray()
        self.error: ImageError | None = None
        self.encoding = encoding
        self.unnamed = unnamed

    @property
    def encoded(self) -> bool:
        """Whether `decode` has something to do."""
        return self.encoding == "base64" and self.error is None

    def decode(self) -> None:
        """Undo the part's transfer encoding; to be called once the body is complete."""
        if self.encoded:
            found = decoded(self.data.decode("latin-1"))
            if isinstance(found, ImageError):
                self.data, self.error = bytearray(), found
            else:
                self.data = bytearray(found)


class FileCollector:
    """Feed it chunks of a multipart body; `files` are its file parts, in order. Other fields are skipped.

    A part is a file where it has a file name, or where its type says image or bytes. A file field that was left empty
    in a browser's form is none.

    Raises `RequestError` for a body that is not multipart or holds more than `max_files` files or `MAX_FIELDS` other
    parts, and for an image's field that holds text: skipped, it would move the answers of the images after it. A file
    that is too large is that file's error: its bytes are dropped, the others are kept.
    """

    def __init__(self, content_type: str, settings: ServeSettings) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary or len(boundary) > 256:
            raise RequestError(Code.BAD_BODY, "the multipart body cannot be read (no usable boundary)")
        self.files: list[FilePart] = []
        self._first = b"--" + boundary
        self._preamble: bytes | None = b""
        self._file_fields = {IMAGE_FIELD}
        self._text_fields: set[str] = set()
        self._max_files = settings.max_files
        self._max_bytes = settings.max_image_bytes
        self._part: FilePart | None = None
        self._headers: dict[str, bytearray] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._header_bytes = self._all_header_bytes = 0
        self._others = 0
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
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if self._preamble is not None:
            chunk = self._behind_preamble(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(Code.BAD_BODY, f"the multipart body cannot be read ({error})") from None

    def finish(self) -> list[FilePart]:
        """The files, once the body is complete."""
        if not self._ended:
            raise RequestError(Code.BAD_BODY, "the multipart body ends before its closing boundary; send all of it")
        mistaken = min(self._text_fields & self._file_fields, default=None)
        if mistaken is not None:
            raise RequestError(
                Code.BAD_BODY,
                f"the field {mistaken[:80]!r} holds text in place of a file; give it a file name or an image type",
            )
        return self.files

    def _behind_preamble(self, chunk: bytes) -> bytes:
        """What to parse of the body so far: nothing before the first boundary, which begins a line."""
        seen = (self._preamble or b"") + chunk
        place = 0 if seen.startswith(self._first) else seen.find(b"\n" + self._first) + 1
        if place or seen.startswith(self._first):
            self._preamble = None
            return seen[place:]
        if len(seen) > MAX_PREAMBLE_BYTES:
            raise RequestError(
                Code.BAD_BODY, "the multipart body does not begin with its boundary; send the one of the content type"
            )
        self._preamble = seen
        return b""

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
        self._all_header_bytes += size
        if (
            self._header_bytes > MAX_PART_HEADER_BYTES
            or self._all_header_bytes > MAX_HEADER_BYTES
            or len(self._headers) > MAX_PART_HEADERS
        ):
            raise RequestError(Code.BAD_BODY, "the multipart body cannot be read (part headers too large)")

    def _count_other(self) -> None:
        self._others += 1
        if self._others > MAX_FIELDS:
            raise RequestError(Code.BAD_BODY, f"the request has more than {MAX_FIELDS:,} fields; send only images")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name, self._value = bytearray(), bytearray()

    def _headers_done(self) -> None:
        disposition = bytes(self._headers.get("content-disposition", b""))
        _, options = _options(disposition)
        kind, _ = _options(bytes(self._headers.get("content-type", b"")))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        extended = EXTENDED_NAME.search(disposition.decode("latin-1"))
        if b"filename" not in options and not extended and not is_image_type(kind.decode("latin-1")):
            self._text_fields.add(field)
            self._count_other()
            return
        if len(self.files) >= self._max_files:
            raise RequestError(Code.TOO_MANY_FILES, f"the request holds more than {self._max_files} images")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if not name and extended:
            name = unquote(extended[1], errors="replace")
        encoding = bytes(self._headers.get("content-transfer-encoding", b"")).decode("latin-1").strip().lower()
        self._file_fields.add(field)
        self._part = FilePart(name or None, encoding=encoding, unnamed=b"filename" in options and not name)
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

    def _part_end(self) -> None:
        part = self._part
        if part is None:
            return
        if part.unnamed and not part.data and part.error is None:
            self.files.pop()
            self._count_other()

    def _end(self) -> None:
        self._ended = True


def _options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The value of a part's header, and its options."""
    if header.count(b";") > MAX_OPTIONS:
        raise RequestError(Code.BAD_BODY, "the multipart body cannot be read (too many options in a part's header)")
    return parse_options_header(header)
