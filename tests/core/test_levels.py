"""Files of every kind give the numbers that were put in, by one rule of which is white, or are refused."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oodguard.core.errors import ImageError
from oodguard.core.images import pixels_of
from oodguard.core.preprocessing import ImageLimits, Preprocessing, load_pixels, open_image, upright
from tests.rasters import Compression, png, tiff

Order = Literal["<", ">"]
HEIGHT, WIDTH = 21, 17
RNG = np.random.default_rng(5)
U16 = RNG.integers(0, 65_536, (HEIGHT, WIDTH), dtype=np.uint16)
U8 = (U16 >> 8).astype(np.uint8)
# Each sample a multiple of 257: what 8 bits become in 16.
COLOURS = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
COLOURS_16 = COLOURS.astype(np.uint16) * 257
ORDERS: tuple[Order, ...] = ("<", ">")
COMPRESSIONS: tuple[Compression, ...] = ("none", "deflate", "lzw")
# Tags of a TIFF.
MINIMUM, MAXIMUM, MAP, EXTRA, S_MINIMUM, S_MAXIMUM, SUBSAMPLING = 280, 281, 320, 338, 340, 341, 530


def read(data: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(open_image(data), dtype=np.float64)


def grey(values: Any) -> npt.NDArray[np.float64]:
    return np.repeat(np.asarray(values, dtype=np.float64)[..., None], 3, axis=-1)


def over_white(colours: Any, alpha: Any) -> npt.NDArray[np.float64]:
    """Colours of 0 to 255 with an alpha of 0 to 255, laid over white."""
    share = np.asarray(alpha, dtype=np.float64)[..., None] / 255
    found: npt.NDArray[np.float64] = np.asarray(colours, dtype=np.float64) * share + 255 * (1 - share)
    return found


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert caught.value.code == "unsupported_type"
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_tiffs_of_every_depth(order: Order, compression: Compression, white_is_zero: bool) -> None:
    how: dict[str, Any] = {"order": order, "compression": compression, "photometric": 0 if white_is_zero else 1}
    for bits in (1, 2, 4, 8, 16):
        values = U16 >> (16 - bits)
        stored = values if bits == 16 else values.astype(np.uint8)
        right = grey(values.astype(float) / ((1 << bits) - 1) * 255)
        found = read(tiff(stored, bits=bits, rows=5, **how))
        assert np.abs(found - (255 - right if white_is_zero else right)).max() <= 0.5, bits
    floats = RNG.random((HEIGHT, WIDTH)).astype(np.float32)
    right = grey(floats * 255)
    assert np.abs(read(tiff(floats, **how)) - (255 - right if white_is_zero else right)).max() <= 0.51


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_twelve_bits_are_white_at_4095(compression: Compression, white_is_zero: bool) -> None:
    values = U16 >> 4
    right = grey(values / 4095 * 255)
    found = read(tiff(values, bits=12, compression=compression, photometric=0 if white_is_zero else 1))
    assert np.abs(found - (255 - right if white_is_zero else right)).max() <= 0.5


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_tiffs(order: Order, compression: Compression, planar: bool, tile: int | None, bits: int) -> None:
    source = COLOURS if bits == 8 else COLOURS_16
    how: dict[str, Any] = {
        "order": order, "compression": compression, "planar": planar, "tile": tile, "rows": None if tile else 5
    }  # fmt: skip
    rgb = COLOURS[..., :3].astype(float)
    assert np.array_equal(read(tiff(source[..., :3], photometric=2, **how)), rgb)
    rgba = read(tiff(source, photometric=2, tags={EXTRA: 2}, **how))
    assert np.abs(rgba - over_white(rgb, COLOURS[..., 3])).max() <= 0.5
    # Colours that are multiplied by alpha already.
    associated = source.copy()
    associated[..., :3] = np.minimum(source[..., :3], source[..., 3:])
    data = tiff(associated, photometric=2, tags={EXTRA: 1}, **how)
    if planar and compression == "none":
        assert "which is not read" in reason(data)
    else:
        right = np.minimum(rgb, COLOURS[..., 3:]) + 255.0 - COLOURS[..., 3:]
        assert np.abs(read(data) - right).max() <= 1.01
    cmyk = tiff(source, photometric=5, **how)
    if planar and compression == "none" and bits == 16:
        assert "which is not read" in reason(cmyk)
    else:
        ink = 255.0 - COLOURS
        assert np.abs(read(cmyk) - ink[..., :3] * ink[..., 3:] / 255).max() <= 0.5


def test_any_number_of_16_bits_is_right_within_one_level() -> None:
    colours = RNG.integers(0, 65_536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    for data in (tiff(colours, photometric=2), tiff(colours, photometric=2, planar=True, order=">"), png(colours)):
        assert np.abs(read(data) - colours / 257).max() < 1
    for data in (tiff(U16), png(U16)):
        assert np.abs(read(data) - grey(U16 / 257)).max() <= 0.5


@pytest.mark.parametrize(
    ("numbers", "tags", "black", "white"),
    [
        # As cameras say how many of 16 bits they use.
        (U16 >> 4, {MINIMUM: 0, MAXIMUM: 4095}, 0, 4095),
        (U16 >> 2, {MAXIMUM: 16_383}, 0, 16_383),
        ((U16 >> 4) + 100, {S_MINIMUM: 100, S_MAXIMUM: 4195}, 100, 4195),
        (U16.view(np.int16), {S_MINIMUM: -32_768, S_MAXIMUM: 32_767}, -32_768, 32_767),
        ((U16 >> 4).astype(np.int16) - 1024, {S_MINIMUM: -1024, S_MAXIMUM: 3071}, -1024, 3071),
        (U16.astype(np.uint32) << 16, {S_MINIMUM: 0.0, S_MAXIMUM: 4_294_967_295.0}, 0, 4_294_967_295),
        ((U16 / 257).astype(np.float32), {S_MINIMUM: 0.0, S_MAXIMUM: 255.0}, 0, 255),
    ],
)
def test_a_range_that_the_tags_of_a_tiff_name_is_taken(
    numbers: npt.NDArray[Any], tags: dict[int, Any], black: float, white: float
) -> None:
    right = (numbers.astype(np.float64) - black) / (white - black) * 255
    assert np.abs(read(tiff(numbers, tags=tags)) - grey(right)).max() <= 0.51
    assert np.abs(read(tiff(numbers, tags=tags, photometric=0)) - (255 - grey(right))).max() <= 0.51


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_signed_and_long_numbers_in_either_order_of_bytes(order: Order, compression: Compression) -> None:
    how: dict[str, Any] = {"order": order, "compression": compression}
    signed, long = U16.view(np.int16), (U16.astype(np.int64) * 65_537 - 2**31).astype(np.int32)
    for numbers, least, most in ((signed, -32_768, 32_767), (long, -(2**31), 2**31 - 1)):
        right = (numbers.astype(np.float64) - least) / (most - least) * 255
        tags = {S_MINIMUM: float(least), S_MAXIMUM: float(most)}
        assert np.abs(read(tiff(numbers, tags=tags, **how)) - grey(right)).max() <= 0.51


def test_what_tags_count_of_the_pixels_is_no_range() -> None:
    """MinSampleValue and MaxSampleValue are statistics, unless they are a range of whole bits."""
    plain = read(tiff(U16))
    for least, most in ((5, 60_000), (100, 4095), (0, 4000), (0, 127)):
        assert np.array_equal(read(tiff(U16, tags={MINIMUM: least, MAXIMUM: most})), plain)


def test_numbers_beyond_the_range_that_tags_name_are_refused() -> None:
    assert "beyond black (0) and white (4095)" in reason(tiff(U16, tags={MAXIMUM: 4095}))
    assert "beyond white" not in reason(tiff(U16, tags={MAXIMUM: 4095}, photometric=0))
    assert "colours of 16 bits are read with white at 65535" in reason(
        tiff(COLOURS_16[..., :3] >> 4, photometric=2, tags={MAXIMUM: (4095,) * 3})
    )


BANDS = RNG.integers(0, 65_536, (HEIGHT, WIDTH, 5), dtype=np.uint16)
REFUSED: dict[str, tuple[bytes, str]] = {
    "signed 16 bits": (tiff(U16.view(np.int16)), "16-bit signed numbers (grey) and does not say which is white"),
    "signed 32 bits": (tiff(U16.astype(np.int32)), "does not say which is white"),
    "unsigned 32 bits": (tiff(U16.astype(np.uint32)), "32-bit unsigned numbers (grey) and does not say which is white"),
    "unsigned 32 bits, big-endian": (tiff(U16.astype(np.uint32), order=">"), "does not say which is white"),
    "signed 8 bits": (tiff(U8.view(np.int8)), "8-bit signed numbers (grey), which is not read"),
    "float64": (tiff(U16 / 65_535), "64-bit floating-point numbers (grey), which is not read"),
    "float16": (tiff((U16 / 65_535).astype(np.float16)), "16-bit floating-point numbers (grey), which is not read"),
    "float32 to 255": (tiff((U16 / 257).astype(np.float32)), "beyond black (0) and white (1)"),
    "float32 colours": (tiff(COLOURS[..., :3].astype(np.float32), photometric=2), "which is not read"),
    "five bands": (tiff(BANDS), "holds 5 channels of 16-bit unsigned numbers (grey) of which nothing says"),
    "five bands, planar": (tiff(BANDS, planar=True, compression="lzw", tags={EXTRA: (0,) * 4}), "nothing says which"),
    "five 8-bit bands": (tiff(BANDS.astype(np.uint8), planar=True, tags={EXTRA: (0,) * 4}), "nothing says which"),
    "grey and alpha in planes": (tiff(COLOURS[..., :2], planar=True, compression="lzw", tags={EXTRA: 2}), "not read"),
    "grey and alpha of 16 bits": (tiff(COLOURS_16[..., :2], tags={EXTRA: 2}), "2 channels of 16-bit unsigned numbers"),
    "twelve bits, big-endian": (tiff(U16 >> 4, bits=12, order=">"), "12-bit unsigned numbers (grey), which is not"),
    "CIELab": (tiff(COLOURS[..., :3], photometric=8), "(CIELab), which is not read"),
    "YCbCr of halved chroma": (tiff(COLOURS[..., :3], photometric=6), "(YCbCr), which is not read"),
    "ImageJ": (tiff(U16, pages=3, tags={270: "ImageJ=1.54f\nimages=3\nchannels=3\n"}), "3 channels on pages of their"),
    "OME, other quotes": (
        tiff(U16, pages=3, tags={270: "<OME><Pixels SizeC = '3' SizeX='1'/></OME>"}), "3 channels on pages of their"
    ),
    "OME": (tiff(U16, pages=2, tags={270: '<OME><Pixels SizeC="2" SizeX="1"/></OME>'}), "2 channels on pages of their"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_right_is_refused_with_the_reason(name: str) -> None:
    data, why = REFUSED[name]
    assert why in reason(data)
    # One sentence that says what to do: the same before anything is decoded, whatever the size.
    assert any(word in reason(data) for word in ("save it as", "save three of them", "save the image", "scale"))


def test_ome_and_many_pages_give_the_first_page_where_it_is_the_picture() -> None:
    rgb = COLOURS[..., :3]
    data = tiff(rgb, photometric=2, pages=3, tags={270: '<OME><Pixels SizeC="3"/></OME>'})
    assert np.array_equal(read(data), rgb)
    assert np.array_equal(read(tiff(U8, pages=4)), grey(U8))
    # More bands behind red, green and blue are left out.
    near_infrared = tiff(COLOURS, photometric=2, tags={EXTRA: 0})
    assert np.array_equal(read(near_infrared), rgb)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_tiffs(bits: int) -> None:
    indices = (U16 >> (16 - bits)).astype(np.uint8)
    colours = RNG.integers(0, 65_536, (3, 1 << bits))
    wide = tiff(indices, bits=bits, photometric=3, tags={MAP: tuple(map(int, colours.ravel()))})
    assert np.abs(read(wide) - colours.T[indices] / 257).max() < 1
    # A map of 8 bits, which old programs write: libtiff reads it so.
    narrow = tiff(indices, bits=bits, photometric=3, tags={MAP: tuple(map(int, (colours >> 8).ravel()))})
    assert np.array_equal(read(narrow), (colours >> 8).T[indices])


def test_ycbcr_tiffs() -> None:
    small = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)
    stored = np.asarray(smooth.convert("YCbCr"))
    for compression in COMPRESSIONS:
        data = tiff(stored, photometric=6, compression=compression, tags={SUBSAMPLING: (1, 1)})
        assert np.abs(read(data) - np.asarray(smooth)).max() <= 3
    stream = io.BytesIO()
    smooth.save(stream, "TIFF", compression="jpeg", quality=95)
    assert np.abs(read(stream.getvalue()) - np.asarray(smooth)).mean() < 2


def test_twelve_bits_that_nothing_names_are_white_at_65535() -> None:
    values = U16 >> 4
    for data in (png(values), tiff(values)):
        assert np.abs(read(data) - grey(values / 257)).max() <= 0.5


def test_gamma_and_profiles_change_nothing() -> None:
    plain = read(png(U8))
    profile = b"x\0\0" + zlib.compress(b"no profile at all")
    assert np.array_equal(read(png(U8, chunks=[(b"gAMA", struct.pack(">I", 100_000))])), plain)
    assert np.array_equal(read(png(U8, chunks=[(b"iCCP", profile)])), plain)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_count_by_the_first(kind: str) -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "blue", "lime")]
    stream = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(stream).n_frames == 3  # type: ignore[attr-defined]
    assert (read(stream.getvalue()) == (255, 0, 0)).all()


def test_cmyk_jpegs_are_inverted_as_adobe_writes_them() -> None:
    small = RNG.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    ink = Image.fromarray(small, "CMYK").resize((64, 48), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    ink.save(stream, "JPEG", quality=98)
    values = 255.0 - np.asarray(ink)
    assert np.abs(read(stream.getvalue()) - values[..., :3] * values[..., 3:] / 255).mean() < 1.5


PLAIN = Preprocessing(resize=16, crop=16, mean=(0, 0, 0), std=(1, 1, 1))
KINDS = {
    "planes of 16 bits": tiff(COLOURS_16[..., :3], photometric=2, planar=True),
    "white is zero": tiff(U16, photometric=0),
    "a range": tiff(U16.view(np.int16), tags={S_MINIMUM: -32_768, S_MAXIMUM: 32_767}),
    "floating point": tiff((U16 / 65_535).astype(np.float32)),
    "clear grey": png(U16, chunks=[(b"tRNS", struct.pack(">H", int(U16[0, 0])))]),
    "clear grey of 4 bits": png(U8 >> 4, bits=4, chunks=[(b"tRNS", struct.pack(">H", int(U8[0, 0] >> 4)))]),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_opened_image_gives_the_pixels_of_its_file(name: str) -> None:
    image = Image.open(io.BytesIO(KINDS[name]))
    expected = load_pixels(KINDS[name], PLAIN)
    # Twice: nothing that was put right the first time is put right again.
    for _ in range(2):
        assert np.array_equal(pixels_of(image, PLAIN), expected)


def test_planes_that_were_decoded_before_are_refused() -> None:
    image = Image.open(io.BytesIO(KINDS["planes of 16 bits"]))
    image.load()
    with pytest.raises(ImageError, match="give the file instead"):
        upright(image)


def test_the_record_says_by_which_rule_files_are_read() -> None:
    assert PLAIN.model_dump()["white"] == "tags-else-type"
    with pytest.raises(ValueError, match="tags-else-type"):
        Preprocessing.model_validate({**PLAIN.model_dump(), "white": "another"})


def test_what_a_big_tiff_says_is_read_alike(tmp_path: Path) -> None:
    image = Image.fromarray(U16)
    image.save(tmp_path / "big.tif", big_tiff=True)
    data = bytearray((tmp_path / "big.tif").read_bytes())
    assert data[2] == 43
    assert np.abs(read(bytes(data)) - grey(U16 / 257)).max() <= 0.5
    place = data.index(struct.pack("<HHQH", 262, 3, 1, 1))
    data[place + 12] = 0
    assert np.abs(read(bytes(data)) - (255 - grey(U16 / 257))).max() <= 0.5


@pytest.mark.parametrize(
    "tags",
    [
        {262: float("nan")},
        {277: 4_000_000_000},
        {258: (16,) * 5000},
        {S_MINIMUM: 0.0, S_MAXIMUM: float("inf")},
        {S_MINIMUM: float("nan"), S_MAXIMUM: 1.0},
        {270: "ImageJ=1\nchannels=" + "9" * 4000},
        {338: (0,) * 3000},
    ],
)
def test_tags_that_make_no_sense_cost_nothing(tags: dict[int, Any]) -> None:
    started = time.process_time()
    with contextlib.suppress(ImageError):
        open_image(tiff(U16, tags=tags))
    assert time.process_time() - started < 0.5


def refusal(data: bytes) -> str | None:
    try:
        open_image(data, ImageLimits(max_pixels=100_000, max_work=50_000_000))
    except ImageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", KINDS)
def test_files_cut_short_or_with_odd_tags_are_refused_in_a_sentence(name: str) -> None:
    """Nothing but `ImageError` comes out, whatever is damaged."""
    data = KINDS[name]
    rng = np.random.default_rng(1)
    found = [refusal(data[:size]) for size in rng.integers(1, len(data) - 12, 60)]
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            changed[place] = rng.integers(256)
        found.append(refusal(bytes(changed)))
    sentences = [why for why in found if why is not None]
    assert len(sentences) > 20
    assert not any("\n" in why for why in sentences)
