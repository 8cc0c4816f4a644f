"""TIFF and PNG files written byte by byte, so that a reader can be compared with the numbers that were put in."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Compression = Literal["none", "deflate", "lzw"]
_SHORT, _LONG, _FLOAT, _DOUBLE, _ASCII = 3, 4, 11, 12, 2
_CODES = {"none": 1, "deflate": 8, "lzw": 5}
_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(
    values: Numbers,
    *,
    order: Literal["<", ">"] = "<",
    photometric: int = 1,
    planar: bool = False,
    compression: Compression = "none",
    bits: int | None = None,
    rows: int | None = None,
    tile: int | None = None,
    tags: Mapping[int, Any] | None = None,
    pages: int = 1,
) -> bytes:
    """A TIFF of `[height, width]` or `[height, width, samples]`; `tags` are added, or left out where they are None.

    bits: fewer than a number of `values` takes: the numbers are packed. rows: of a strip. tile: a tile's side.
    """
    planes = values[..., None] if values.ndim == 2 else values
    height, width, samples = planes.shape
    depth = bits or values.dtype.itemsize * 8
    parts = [planes[..., s : s + 1] for s in range(samples)] if planar else [planes]
    if tile:
        pieces = [
            _pad(part[y : y + tile, x : x + tile], tile)
            for part in parts
            for y in range(0, height, tile)
            for x in range(0, width, tile)
        ]
    else:
        step = rows or height
        pieces = [part[y : y + step] for part in parts for y in range(0, height, step)]
    strips = [_squeezed(_packed(piece, order, depth), compression) for piece in pieces]
    found: dict[int, Any] = {
        256: width,
        257: height,
        258: (depth,) * samples,
        259: _CODES[compression],
        262: photometric,
        277: samples,
        284: 2 if planar else 1,
        339: (_FORMATS[values.dtype.kind],) * samples,
    }
    place = 8
    offsets = []
    for strip in strips:
        offsets.append(place)
        place += len(strip) + len(strip) % 2
    sizes = tuple(map(len, strips))
    found |= {322: tile, 323: tile, 324: tuple(offsets), 325: sizes} if tile else {
        273: tuple(offsets), 278: rows or height, 279: sizes
    }  # fmt: skip
    found |= tags or {}
    body = b"".join(strip + b"\0" * (len(strip) % 2) for strip in strips)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, place)
    found = {tag: value for tag, value in found.items() if value is not None}
    directories = b""
    for page in range(pages):
        last = page == pages - 1
        directories += _directory(found, order, place + len(directories), last=last)
    return head + body + directories


def _pad(piece: Numbers, tile: int) -> Numbers:
    full = np.zeros((tile, tile, piece.shape[2]), piece.dtype)
    full[: piece.shape[0], : piece.shape[1]] = piece
    return full


def _packed(piece: Numbers, order: Literal["<", ">"], depth: int) -> bytes:
    if depth == piece.dtype.itemsize * 8:
        return piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    rows = piece.reshape(len(piece), -1).astype(np.uint64)
    shifts = np.arange(depth - 1, -1, -1, dtype=np.uint64)
    spread = ((rows[..., None] >> shifts) & np.uint64(1)).astype(np.uint8)
    return np.packbits(spread.reshape(len(rows), -1), axis=1).tobytes()


def _squeezed(data: bytes, compression: Compression) -> bytes:
    if compression == "none":
        return data
    if compression == "deflate":
        return zlib.compress(data)
    # LZW that never uses its table: each byte is a code of nine bits, and the table is cleared before it would grow.
    codes = [256]
    for index, byte in enumerate(data):
        if index and index % 200 == 0:
            codes.append(256)
        codes.append(byte)
    text = "".join(f"{code:09b}" for code in [*codes, 257])
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _directory(tags: Mapping[int, Any], order: str, place: int, *, last: bool) -> bytes:
    entries, extra = b"", b""
    behind = place + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, count, data = _value(tags[tag], order)
        if len(data) > 4:
            entries += struct.pack(order + "HHII", tag, kind, count, behind + len(extra))
            extra += data + b"\0" * (len(data) % 2)
        else:
            entries += struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0")
    following = 0 if last else behind + len(extra)
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + extra


def _value(value: Any, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, str):
        return _ASCII, len(value) + 1, value.encode() + b"\0"
    numbers: Sequence[float] = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, float) for number in numbers):
        return _DOUBLE, len(numbers), struct.pack(f"{order}{len(numbers)}d", *numbers)
    if any(number < 0 for number in numbers):
        return 9, len(numbers), struct.pack(f"{order}{len(numbers)}i", *map(int, numbers))
    kind, letter = (_SHORT, "H") if max(numbers) < 65_536 else (_LONG, "I")
    return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{letter}", *map(int, numbers))


def png(values: Numbers, *, bits: int | None = None, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of `[height, width]` or `[height, width, samples]`, with `chunks` before its pixels."""
    planes = values[..., None] if values.ndim == 2 else values
    height, width, samples = planes.shape
    depth = bits or values.dtype.itemsize * 8
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    if any(kind == b"PLTE" for kind, _ in chunks):
        colour = 3
    rows = b"".join(b"\0" + _packed(planes[y : y + 1], ">", depth) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
