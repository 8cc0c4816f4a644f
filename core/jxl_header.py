"""What the first bits of a JPEG XL file say: its size, its orientation, and how bright its numbers mean.

Only what stands before the colour profile and the frames is read (ISO/IEC 18181-1, annexes C and D; 18181-2 for boxes).
"""

from __future__ import annotations

from dataclasses import dataclass

# What codestreams begin with, and the box around one.
CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
# Codes of transfer functions (the same as in H.273).
SRGB, PQ, HLG = 13, 16, 18
# Codes by which the width follows from the height.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ALPHA, _SPOT, _CFA = 0, 2, 5
_LYING = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """size: width and height of the upright picture. transfer: the code of its transfer function; None: a profile's.

    bits: of a number; None where numbers are floating-point.
    """

    size: tuple[int, int]
    transfer: int | None
    bits: int | None

    @classmethod
    def of(cls, data: bytes) -> JxlHeader:
        """Read the header of a file. Raises `ValueError` or `IndexError` where it has none."""
        bits = _Bits(_codestream(data))
        if bits.take(16) != int.from_bytes(CODESTREAM, "little"):
            raise ValueError("it has no codestream")
        width, height = _size(bits)
        if bits.flag():
            return cls((width, height), SRGB, 8)
        orientation = 1
        if bits.flag():
            orientation = 1 + bits.take(3)
            if bits.flag():
                _size(bits)
            if bits.flag():
                _preview(bits)
            if bits.flag():
                _animation(bits)
        depth = _bit_depth(bits)
        bits.flag()
        for _ in range(bits.choice((0, 0), (1, 0), (2, 4), (1, 12))):
            _extra_channel(bits)
        bits.flag()
        size = (height, width) if orientation in _LYING else (width, height)
        return cls(size, _transfer(bits), depth)


class _Bits:
    """Bits of bytes, from the lowest of the first byte on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, count: int) -> int:
        """An unsigned number of `count` bits. Raises `IndexError` at the end."""
        found = 0
        for index in range(count):
            byte, bit = divmod(self._place, 8)
            found |= (self._data[byte] >> bit & 1) << index
            self._place += 1
        return found

    def flag(self) -> bool:
        return bool(self.take(1))

    def choice(self, *options: tuple[int, int]) -> int:
        """One of four numbers: a base, and a number of so many bits more."""
        base, more = options[self.take(2)]
        return base + self.take(more)

    def code(self) -> int:
        return self.choice((0, 0), (1, 0), (2, 4), (18, 6))


def _codestream(data: bytes) -> bytes:
    """The first part of the codestream, out of its box where it lies in one."""
    if not data.startswith(CONTAINER):
        return data[:4096]
    place = 0
    while place + 8 <= len(data):
        size, kind, head = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = place + head + (4 if kind == b"jxlp" else 0)
            return data[start : start + 4096]
        if size < head:
            break
        place += size
    raise ValueError("it has no codestream")


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    over, under = _RATIOS[ratio - 1]
    return height * over // under, height


def _preview(bits: _Bits) -> None:
    small = bits.flag()

    def side() -> int:
        return 8 * bits.choice((16, 0), (32, 0), (1, 5), (33, 9)) if small else bits.choice((1, 6), (65, 8), (321, 10),
                                                                                           (1345, 12))  # fmt: skip

    side()
    if not bits.take(3):
        side()


def _animation(bits: _Bits) -> None:
    bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
    bits.flag()


def _bit_depth(bits: _Bits) -> int | None:
    if bits.flag():
        bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
        return None
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6))


def _extra_channel(bits: _Bits) -> None:
    if bits.flag():
        return
    kind = bits.code()
    _bit_depth(bits)
    bits.choice((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.choice((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)
    if kind == _ALPHA:
        bits.flag()
    elif kind == _SPOT:
        bits.take(64)
    elif kind == _CFA:
        bits.choice((1, 0), (0, 2), (3, 4), (19, 8))


def _transfer(bits: _Bits) -> int | None:
    if bits.flag():
        return SRGB
    if bits.flag():
        return None
    space = bits.code()
    # XYB has neither a white point nor primaries; its own transfer function is part of it.
    if space == 2:
        return None
    if bits.code() == 2:
        _point(bits)
    if space != 1 and bits.code() == 2:
        for _ in range(3):
            _point(bits)
    if bits.flag():
        bits.take(24)
        return None
    return bits.code()


def _point(bits: _Bits) -> None:
    for _ in range(2):
        bits.choice((0, 19), (524288, 19), (1048576, 20), (2097152, 21))
