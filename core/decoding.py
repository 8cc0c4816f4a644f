"""What decoding an image takes, told from its headers before anything is decoded: work, and bytes of memory.

A few hundred bytes may ask a decoder to pass over fifty megapixels thousands of times. Work is counted in pixels that
are passed over once, which takes about a nanosecond each.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from oodguard.core.apart import BESIDE, PASSES
from oodguard.core.bands import TURNS, WHOLE, fits_bands, orientation_of
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.formats import format_of

# One segment, chunk, entry or strip costs Pillow some microseconds, whatever it holds; and so does a scan.
SEGMENT = 4096
SCAN = 32_768
# A block of a GIF, a byte between the segments of a JPEG; a number of a TIFF, a byte of EXIF, a fraction of a TIFF.
SMALL = 256
NUMBER = 64
METADATA = 32
FRACTION = 2048
# Pillow inflates up to a mebibyte of each compressed chunk of a PNG.
INFLATED = 2 * 1024 * 1024
# Pillow decodes run lengths of a BMP in Python.
RUN_LENGTH_PIXEL = 64
# Frames of a JPEG whose one scan may hold all components, in which case nothing behind it is decoded.
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_INFLATED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
_BIG_TIFF = 43
# Types of numbers in a TIFF, and of fractions.
_NUMBERS = {3: "H", 4: "I", 16: "Q"}
_FRACTIONS = (5, 10)
# Tags of a TIFF: size, compression, and where strips and tiles are and how large.
_WIDTH, _HEIGHT, _COMPRESSION, _STRIPS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = (
    256,
    257,
    259,
    273,
    278,
    322,
    323,
    324,
)
_JPEG_IN_TIFF = (6, 7)
# Bytes of a pixel in Pillow's memory, where they are not four.
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}


@dataclass(frozen=True, slots=True)
class Effort:
    """What the headers of a file ask of its decoder.

    fixed: work that does not depend on the picture's size. passes: how often each pixel is passed over. padded: pixels
    that are decoded, where they may be more than the picture has. beside: bytes for each pixel of the file that the
    decoder keeps beside the picture. piece: bytes of the strip or tile that it keeps beside it.
    """

    fixed: int = 0
    passes: int = 1
    padded: int = 0
    beside: int = 0
    piece: int = 0

    @classmethod
    def of(cls, data: bytes, *, most: int) -> Effort:
        """The effort for an encoded image; what is found to cost more than `most` is not looked at any further."""
        kind = format_of(data)
        # Pillow also takes TIFFs whose version is written in the wrong order.
        look = _LOOKS["TIFF"] if data[:2] in (b"II", b"MM") else _LOOKS.get(kind.name) if kind else None
        if kind is not None and kind.apart:
            return cls(passes=PASSES, beside=BESIDE)
        try:
            return cls() if look is None else look(data, most)
        except (IndexError, struct.error):
            # It ends within its headers, which is for the decoder to say.
            return cls()

    def work(self, width: int, height: int) -> int:
        """The work for a picture of this size."""
        return self.fixed + self.passes * max(width * height, self.padded)


def _jpeg(data: bytes, most: int) -> Effort:
    place, fixed, frame, layers, coefficients, exif = 2, 0, 0, 0, 0, 0
    while fixed <= most:
        marker = data.find(b"\xff", place)
        if marker < 0:
            break
        fixed += SMALL * (marker - place)
        kind = data[marker + 1]
        if kind == 0xFF or kind == 0 or kind in _ALONE:
            fixed += SMALL
            place = marker + (1 if kind == 0xFF else 2)
            continue
        place = marker + 2
        (size,) = _SIZE.unpack_from(data, place)
        fixed += SEGMENT
        if kind == 0xE1 and data.startswith(b"Exif\0\0", place + 2):
            # Pillow copies what it has of EXIF each time that more of it comes.
            fixed += exif + METADATA * size
            exif += size
        elif kind in _FRAMES:
            frame, layers, coefficients = kind, data[place + 7], _coefficients(data, place)
        elif kind == 0xDA:
            if frame in _SEQUENTIAL and data[place + 2] == layers:
                return Effort(fixed=fixed)
            scans = 1 + _scans(data, place)
            return Effort(fixed=fixed + SCAN * scans, passes=scans, beside=2 * coefficients)
        place += max(size, 2)
    return Effort(fixed=fixed)


def _coefficients(data: bytes, start: int) -> int:
    """Coefficients of a JPEG for each of its pixels, rounded up: each two bytes. `start`: of the frame's header."""
    layers = data[start + 7]
    factors = [divmod(data[start + 9 + 3 * layer], 16) for layer in range(layers)]
    across, down = (max(1, *(pair[side] for pair in factors)) for side in (0, 1))
    return math.ceil(sum(h * v for h, v in factors) / (across * down))


def _scans(data: bytes, start: int) -> int:
    """How many scans of a JPEG begin behind `start`. Coded data never holds their marker."""
    # Ten times as fast as `bytes.count`.
    values, found = np.frombuffer(data, dtype=np.uint8, offset=start), 0
    for offset in (0, 1):
        pairs = values[offset : offset + (len(values) - offset) // 2 * 2].view("<u2")
        found += int(np.count_nonzero(pairs == 0xDAFF))
    return found


def _png(data: bytes, most: int) -> Effort:
    place, fixed, passes, size = 8, 0, 1, len(data)
    while fixed <= most and place + 8 <= size:
        length, kind = _CHUNK.unpack_from(data, place)
        fixed += SEGMENT
        if kind in _INFLATED_CHUNKS:
            fixed += INFLATED
        elif kind == b"eXIf":
            fixed += METADATA * length
        elif kind == b"IHDR" and data[place + 20]:
            passes = 2
        place += 12 + length
    return Effort(fixed=fixed, passes=passes)


def _webp(data: bytes, most: int) -> Effort:
    place, fixed, size = 12, 0, len(data)
    while fixed <= most and place + 8 <= size:
        kind, length = _RIFF.unpack_from(data, place)
        fixed += SMALL + (METADATA * length if kind == b"EXIF" else 0)
        place += 8 + length + length % 2
    # libwebp keeps two canvases, and gives a copy of one.
    return Effort(fixed=fixed, beside=12)


def _gif(data: bytes, most: int) -> Effort:
    flags = data[10]
    place, fixed = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0), 0
    while fixed <= most and data[place] not in b",;":
        fixed += SMALL
        place += 1
        if data[place - 1] == 0x21:
            place += 1
            while fixed <= most and data[place]:
                fixed += SMALL
                place += 1 + data[place]
            place += 1
    return Effort(fixed=fixed)


def _bmp(data: bytes, most: int) -> Effort:
    (header,) = struct.unpack_from("<I", data, 14)
    compression = struct.unpack_from("<I", data, 30)[0] if header >= 40 else 0
    runs = compression in (1, 2)
    return Effort(passes=RUN_LENGTH_PIXEL if runs else 1, beside=2 if runs else 0)


def _tiff(data: bytes, most: int) -> Effort:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == _BIG_TIFF
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    place += 8 if big else 2
    fixed = SEGMENT * count
    if fixed > most:
        return Effort(fixed=fixed)
    entry, tags, strips = struct.Struct(order + ("HHQ" if big else "HHI")), dict[int, int](), 0
    for start in range(place, place + (20 if big else 12) * count, 20 if big else 12):
        tag, kind, values = entry.unpack_from(data, start)
        if tag in (_STRIPS, _TILES):
            strips = values
        elif kind in _NUMBERS and values == 1:
            tags[tag] = struct.unpack_from(order + _NUMBERS[kind], data, start + entry.size)[0]
        elif kind in _NUMBERS or kind in _FRACTIONS:
            fixed += (FRACTION if kind in _FRACTIONS else NUMBER) * min(values, len(data))
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    across, down = tags.get(_TILE_WIDTH, width), tags.get(_TILE_HEIGHT, min(tags.get(_ROWS, height), height))
    area = across * down
    pieces = math.ceil(width / across) * math.ceil(height / down) if area else 0
    # A strip or tile may be a JPEG of its own, of several scans.
    scans = _scans(data, 0) if tags.get(_COMPRESSION) in _JPEG_IN_TIFF else 0
    # At most four channels of 16 bits.
    return Effort(fixed=fixed + SEGMENT * max(strips, pieces), padded=area * max(pieces, scans), piece=8 * area)


_SIZE, _CHUNK, _RIFF = struct.Struct(">H"), struct.Struct(">I4s"), struct.Struct("<4sI")
_LOOKS = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp, "TIFF": _tiff}


def bytes_to_decode(image: Image.Image, effort: Effort, *, full: int, resized: int = 0) -> int:
    """The memory that decoding an opened image takes at its peak, in bytes.

    full: the pixels of its file. resized: the bytes of its rows once they have the input's width.

    The picture as it is decoded, what the decoder keeps beside it, and its bands; of a small or thin picture, a copy
    that is turned upright, or one as RGB.
    """
    pixels, own = image.width * image.height, _BYTES.get(image.mode, 4)
    beside = full * effort.beside + effort.piece
    if fits_bands(*image.size):
        return pixels * own + beside + resized + BAND_BYTES
    # Asking a PNG would decode it: its orientation may follow its pixels.
    turned = image.format == "PNG" or orientation_of(image) in TURNS
    copy = max(own if turned else 0, 0 if image.mode == "RGB" else 4)
    # One byte more than the picture itself, for what does not grow with it.
    return pixels * (own + copy + 1) + beside


# A band of a large picture, in each form that it passes through.
BAND_BYTES = 2 * 1024 * 1024
# No more than these bytes are ever counted for a pixel of a file.
MOST_BYTES = 22
# What a server's decoders hold together, by default.
DECODING_BYTES = 256 * 1024 * 1024


def least_bytes(max_pixels: int) -> int:
    """What decoders must be allowed to hold, so that an RGB picture of so many pixels is decoded.

    Pictures of up to a megapixel are decoded whatever their format is; a larger one of a format that takes more memory
    may be refused.
    """
    return max(5 * max_pixels, 26 * min(max_pixels, WHOLE))


class DecodingRoom:
    """How many bytes all decoders together may hold.

    ```python
    room = DecodingRoom(1 << 30)
    pixels = load_pixels(data, preprocessing, limits, room=room)
    ```

    A picture that finds no room waits until others have been decoded. `waiting` pictures do so now.
    """

    @classmethod
    def of(cls, most_pixels: int) -> DecodingRoom:
        """Room for the largest picture in whatever format."""
        return cls(max(DECODING_BYTES, MOST_BYTES * most_pixels))

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = self.waiting = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes. Raises `ImageError` where they would never fit."""
        if size > self.size:
            raise ImageError(
                Code.TOO_MANY_PIXELS,
                f"decoding the image would take {size:,} bytes of memory; at most {self.size:,} are there "
                "(--max-decode-bytes), so send it smaller, or as an ordinary JPEG",
            )
        with self._changed:
            self.waiting += 1
            try:
                self._changed.wait_for(lambda: self.held + size <= self.size)
            finally:
                self.waiting -= 1
            self.held += size
        try:
            yield
        finally:
            with self._changed:
                self.held -= size
                self._changed.notify_all()


class HeavyPicture(Exception):
    """Decoding would take more than a light room lets in."""


@dataclass(frozen=True, slots=True)
class LightRoom:
    """The part of a room for pictures that take at most `most` bytes; raises `HeavyPicture` for the others."""

    room: DecodingRoom
    most: int

    def hold(self, size: int) -> AbstractContextManager[None]:
        """As `DecodingRoom.hold`."""
        if size > self.most:
            raise HeavyPicture
        return self.room.hold(size)
