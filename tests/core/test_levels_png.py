"""PNGs of every depth give the numbers that were put in, with a transparent number, alpha and significant bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.core.test_levels import COLOURS, COLOURS_16, HEIGHT, RNG, U16, WIDTH, grey, over_white, read, reason
from tests.rasters import png


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_a_png_is_white(bits: int) -> None:
    values = U16 >> (16 - bits)
    stored = values if bits == 16 else values.astype(np.uint8)
    clear = int(values[3, 4])
    right = grey(np.where(values == clear, 255, values / ((1 << bits) - 1) * 255))
    assert np.abs(read(png(stored, bits=bits, chunks=[(b"tRNS", struct.pack(">H", clear))])) - right).max() <= 0.5


def test_a_transparent_colour_of_a_png_is_white() -> None:
    rgb = COLOURS[..., :3]
    clear = rgb[2, 2]
    right = np.where((rgb == clear).all(-1)[..., None], 255, rgb)
    data = png(rgb, chunks=[(b"tRNS", struct.pack(">3H", *map(int, clear)))])
    assert np.array_equal(read(data), right)
    assert tuple(read(data)[2, 2]) == (255, 255, 255)
    # Pillow keeps the high bytes alone, by which it cannot be told from its neighbours.
    wide = png(COLOURS_16[..., :3], chunks=[(b"tRNS", struct.pack(">3H", 7, 8, 9))])
    assert "16-bit colours of which one is transparent" in reason(wide)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_pngs_with_alpha(bits: int) -> None:
    indices = (U16 >> (16 - bits)).astype(np.uint8)
    colours = RNG.integers(0, 256, (1 << bits, 3), dtype=np.uint8)
    alpha = RNG.integers(0, 256, 1 << bits, dtype=np.uint8)
    plain = png(indices, bits=bits, chunks=[(b"PLTE", colours.tobytes())])
    assert np.array_equal(read(plain), colours[indices])
    clear = png(indices, bits=bits, chunks=[(b"PLTE", colours.tobytes()), (b"tRNS", alpha.tobytes())])
    assert np.abs(read(clear) - over_white(colours[indices], alpha[indices])).max() <= 0.5


def test_pngs_with_alpha() -> None:
    for colours, bound in ((COLOURS, 0.5), (RNG.integers(0, 65_536, (HEIGHT, WIDTH, 4), dtype=np.uint16), 2.0)):
        most = np.iinfo(colours.dtype).max
        eight = colours / most * 255
        assert np.abs(read(png(colours)) - over_white(eight[..., :3], eight[..., 3])).max() <= bound
        light = over_white(np.repeat(eight[..., :1], 3, axis=-1), eight[..., 1])
        assert np.abs(read(png(np.ascontiguousarray(colours[..., :2]))) - light).max() <= bound
        # All or nothing, which most files have.
        colours[..., 3] = np.where(colours[..., 3] > most // 2, most, 0)
        eight = colours / most * 255
        assert np.abs(read(png(colours)) - over_white(eight[..., :3], eight[..., 3])).max() < 1


@pytest.mark.parametrize("significant", [8, 10, 12, 15])
def test_significant_bits_of_a_png_leave_white_where_it_is(significant: int) -> None:
    """The standard has the numbers scaled to all bits; in whichever way, white stays 65535."""
    few = (U16 >> (16 - significant)).astype(np.int64)
    chunk = [(b"sBIT", bytes([significant]))]
    replicated = (few << (16 - significant)) | (few >> max(0, 2 * significant - 16))
    rounded = np.rint(few * (65_535 / ((1 << significant) - 1))).astype(np.int64)
    for numbers in (replicated, rounded, few << (16 - significant)):
        assert np.abs(read(png(numbers.astype(np.uint16), chunks=chunk)) - grey(numbers / 257)).max() <= 0.5
    if significant == 15:
        return
    # Written as they are, these numbers say another white than the file.
    assert f"says that {significant} of its 16 bits are significant and was not scaled" in reason(
        png(few.astype(np.uint16), chunks=chunk)
    )
