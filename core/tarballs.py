"""Reads the members of a tar, header by header, in bounded memory.

The standard library's reader keeps every member, reads headers of any length, and takes a damaged header for the end of
the archive. This reader bounds the length of a header, and reports what it cannot understand as an error.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

BLOCK = 512
MAX_HEADER = 1024 * 1024
MAX_HEADERS = 16

Unpacked = IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class DamagedTar(Exception):
    """The archive cannot be read further; the text says why."""


class Seekable(Protocol):
    """The methods of a binary file that the reader calls."""

    def seek(self, offset: int, /) -> int: ...  # noqa: D102
    def read(self, size: int, /) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: its name, where its data lies in the unpacked stream, and whether it is an ordinary file."""

    name: str
    offset: int
    size: int
    regular: bool
    folder: bool


def open_tar(path: str) -> Unpacked:
    """Open a tar, compressed or not, to read its unpacked bytes."""
    with open(path, "rb") as stream:
        head = stream.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if head.startswith(b"BZh"):
        return bz2.open(path)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    return open(path, "rb")


def members(stream: Seekable) -> Iterator[Member]:
    """Yield every entry of a tar in order. Raises `DamagedTar` where the archive stops making sense."""
    position = 0
    while True:
        long_name: str | None = None
        fields: dict[str, str] = {}
        # Headers that describe the next header: GNU long names and pax records.
        for _ in range(MAX_HEADERS):
            info = _header(stream, position)
            if info is None:
                return
            position += BLOCK
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = _payload(stream, position, info.size)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = text.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                text = _payload(stream, position, info.size)
                if info.type != tarfile.XGLTYPE:
                    fields = _pax(text)
            else:
                break
            position += _padded(info.size)
        else:
            raise DamagedTar("too many headers before one member")
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in fields)
        if info.type == tarfile.GNUTYPE_SPARSE:
            position = _after_sparse_map(stream, position)
        size = _size(fields["size"]) if "size" in fields else info.size
        stored = info.type in _FILES or info.type not in tarfile.SUPPORTED_TYPES or sparse
        yield Member(
            name=fields.get("path") or long_name or info.name,
            offset=position,
            size=size,
            regular=info.type in _FILES and not sparse,
            folder=info.isdir(),
        )
        if stored and size:
            position += _padded(size)
            stream.seek(position - 1)
            if not stream.read(1):
                raise DamagedTar("it ends inside a member")


def _header(stream: Seekable, position: int) -> tarfile.TarInfo | None:
    stream.seek(position)
    block = stream.read(BLOCK)
    if not block and position:
        return None
    if len(block) < BLOCK:
        raise DamagedTar("it ends inside a header" if block else "it is empty")
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTar(f"{error} at byte {position:,}") from None
    if info.size < 0:
        raise DamagedTar(f"a negative size at byte {position:,}")
    return info


def _payload(stream: Seekable, position: int, size: int) -> bytes:
    if size > MAX_HEADER:
        raise DamagedTar(f"a header of {size:,} bytes")
    stream.seek(position)
    text = stream.read(size)
    if len(text) < size:
        raise DamagedTar("it ends inside a header")
    return text


def _pax(text: bytes) -> dict[str, str]:
    """Parse the records `<length> <key>=<value>\\n` of a pax header."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(text) and text[at] != 0:
        digits, space, _ = text[at : at + 21].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = text[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise DamagedTar("a malformed pax header")
        fields[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        at += length
    return fields


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DamagedTar("a malformed pax size")
    return int(text)


def _after_sparse_map(stream: Seekable, position: int) -> int:
    stream.seek(position - BLOCK)
    more = stream.read(BLOCK)[482]
    while more:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise DamagedTar("it ends inside a header")
        position += BLOCK
        more = block[504]
    return position


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
