"""What decoding will take is told from headers; what would take too much is refused before it is decoded."""

from __future__ import annotations

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from oodguard.core.decoding import (
    BAND_BYTES,
    DECODING_BYTES,
    INFLATED,
    RUN_LENGTH_PIXEL,
    SCAN,
    SEGMENT,
    SMALL,
    DecodingRoom,
    Effort,
    bytes_to_decode,
    least_bytes,
)
from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import ImageLimits, Preprocessing, load_pixels, open_image

MOST = 600_000_000
HOW = Preprocessing(resize=16, crop=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), reduced_jpeg=True)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scanned(repeats: int) -> bytes:
    """A progressive grey JPEG whose last scan is there so many times more: it refines what is refined already."""
    data = encoded(Image.new("L", (48, 32), 90), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + repeats * last + data[-2:]


def refused(data: bytes, limits: ImageLimits) -> str:
    with pytest.raises(ImageError) as caught:
        load_pixels(data, HOW, limits)
    return caught.value.code


def test_a_baseline_jpeg_is_passed_over_once_and_a_progressive_one_for_each_scan() -> None:
    assert Effort.of(encoded(noise(), "JPEG"), most=MOST).passes == 1
    colours = Effort.of(encoded(noise(), "JPEG", progressive=True), most=MOST)
    # libjpeg's script for three components has ten scans; each coefficient takes two bytes.
    assert (colours.passes, colours.beside) == (10, 4)
    grey = Effort.of(encoded(noise(mode="L"), "JPEG", progressive=True), most=MOST)
    assert (grey.passes, grey.beside) == (6, 2)
    assert grey.work(1000, 10) == grey.fixed + 60_000
    assert grey.fixed >= 6 * SCAN


@pytest.mark.parametrize("offset", [0, 1])
def test_scans_are_counted_at_even_and_odd_places(offset: int) -> None:
    data = scanned(5)
    plain = Effort.of(data, most=MOST)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + offset) + bytes(offset)
    assert plain.passes == 11
    assert Effort.of(data[:2] + comment + data[2:], most=MOST).passes == 11


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded() -> None:
    fixed = Effort.of(scanned(20), most=MOST).fixed
    limits = ImageLimits(max_work=fixed + 26 * 48 * 32)
    assert load_pixels(scanned(20), HOW, limits).shape == (16, 16, 3)
    assert refused(scanned(20), limits.model_copy(update={"max_work": fixed + 26 * 48 * 32 - 1})) == "too_much_work"
    assert refused(scanned(21), limits) == "too_much_work"
    with pytest.raises(ImageError, match="save it again as an ordinary JPEG or PNG"):
        open_image(scanned(21), limits)


def test_segments_before_the_picture_count() -> None:
    data = encoded(noise(), "JPEG")
    comments = b"\xff\xfe\x00\x02" * 100
    more = Effort.of(data[:2] + comments + data[2:], most=MOST).fixed - Effort.of(data, most=MOST).fixed
    assert more == 100 * SEGMENT
    # Pillow joins the pieces of EXIF: each one costs what there is already.
    exif = b"\xff\xe1" + struct.pack(">H", 1008) + b"Exif\0\0" + bytes(1000)
    one, many = (Effort.of(data[:2] + n * exif + data[2:], most=MOST).fixed for n in (1, 40))
    assert many - one > 39 * (SEGMENT + 32 * 1008) + 1008 * 40 * 39 // 2 - 1008
    assert refused(data[:2] + comments + data[2:], ImageLimits(max_work=100 * SEGMENT)) == "too_much_work"


def test_chunks_of_a_png_count_and_those_that_are_inflated_count_more() -> None:
    data = encoded(noise(), "PNG")
    plain = Effort.of(data, most=MOST)
    text = chunk(b"tEXt", b"k\0v")
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10)))
    assert Effort.of(data[:33] + 30 * text + data[33:], most=MOST).fixed - plain.fixed == 30 * SEGMENT
    assert Effort.of(data[:33] + 3 * profile + data[33:], most=MOST).fixed - plain.fixed == 3 * (SEGMENT + INFLATED)
    assert refused(data[:33] + 3 * profile + data[33:], ImageLimits(max_work=3 * INFLATED)) == "too_much_work"
    interlaced = bytearray(data)
    interlaced[28] = 1
    assert (plain.passes, Effort.of(bytes(interlaced), most=MOST).passes) == (1, 2)


def test_blocks_of_a_gif_before_its_picture_count() -> None:
    data = encoded(noise().convert("P"), "GIF")
    place = data.index(b"\x21\xf9") if b"\x21\xf9" in data else data.index(b",", 13 + 768)
    comment = b"\x21\xfe" + 50 * b"\x01x" + b"\0"
    more = Effort.of(data[:place] + comment + data[place:], most=MOST).fixed - Effort.of(data, most=MOST).fixed
    assert more == 51 * SMALL
    assert refused(data[:place] + comment + data[place:], ImageLimits(max_work=50 * SMALL)) == "too_much_work"


def test_run_lengths_of_a_bmp_count_for_what_they_cost() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 48, 32, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    rows = 32 * b"\x30\x55\0\0" + b"\0\1"
    data = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + header + palette + rows
    assert Effort.of(data, most=MOST).passes == RUN_LENGTH_PIXEL
    assert Effort.of(encoded(noise(), "BMP"), most=MOST).passes == 1
    assert (load_pixels(data, HOW) == 0x55).all()
    assert refused(data, ImageLimits(max_work=RUN_LENGTH_PIXEL * 48 * 32 - 1)) == "too_much_work"


def test_tiles_of_a_tiff_count_with_what_they_pad() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[278] = 8
    strips = Effort.of(encoded(noise(), "TIFF", tiffinfo=info), most=MOST)
    assert (strips.padded, strips.piece) == (48 * 32, 8 * 48 * 8)
    # The same entries, but of a tile of 1,024 x 1,024 pixels for 48 x 32.
    data = bytearray(encoded(noise(), "TIFF"))
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    entries = {struct.unpack_from("<H", data, place + 2 + 12 * i)[0]: place + 2 + 12 * i for i in range(count)}
    for tag, other in ((278, 322), (284, 323)):
        struct.pack_into("<HHII", data, entries[tag], other, 4, 1, 1024)
    assert Effort.of(bytes(data), most=MOST).padded == 1024 * 1024
    assert refused(bytes(data), ImageLimits(max_work=1024 * 1024 - 1)) == "too_much_work"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_ordinary_files_are_far_from_the_limit_and_files_cut_short_are_for_the_decoder(kind: str) -> None:
    data = encoded(noise(), kind)
    effort = Effort.of(data, most=MOST)
    assert effort.work(48, 32) < MOST / 100
    for size in range(1, min(len(data), 80)):
        assert isinstance(Effort.of(data[:size], most=MOST), Effort)


def test_what_costs_too_much_is_not_looked_at_to_its_end() -> None:
    data = encoded(noise(), "PNG")
    many = data[:33] + 1000 * chunk(b"tEXt", b"k\0v") + data[33:]
    assert 10 * SEGMENT < Effort.of(many, most=10 * SEGMENT).fixed <= 11 * SEGMENT


def test_the_memory_of_decoding_is_told_by_mode_and_format() -> None:
    def needed(data: bytes) -> int:
        with Image.open(io.BytesIO(data)) as image:
            return bytes_to_decode(image, Effort.of(data, most=MOST), full=image.width * image.height)

    pixels = 48 * 32
    assert needed(encoded(noise(), "JPEG")) == 5 * pixels
    # Chroma at a quarter: one and a half coefficients a pixel.
    assert needed(encoded(noise(), "JPEG", progressive=True)) == (5 + 4) * pixels
    assert needed(encoded(noise(), "JPEG", progressive=True, subsampling=0)) == (5 + 6) * pixels
    assert needed(encoded(noise(), "WEBP")) == (5 + 12) * pixels
    assert needed(encoded(noise(), "BMP")) == 5 * pixels
    # A PNG may be turned upright only once it is decoded.
    assert needed(encoded(noise(mode="L"), "PNG")) == (1 + 4 + 1) * pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    assert needed(encoded(noise(), "JPEG", exif=exif)) == 9 * pixels


def test_a_large_picture_is_counted_once_and_a_thin_one_with_a_copy() -> None:
    def needed(width: int, height: int, mode: str) -> int:
        with Image.open(io.BytesIO(encoded(Image.new(mode, (width, height)), "PNG"))) as image:
            return bytes_to_decode(image, Effort(), full=width * height, resized=1000)

    assert needed(2000, 1500, "RGBA") == 4 * 3_000_000 + 1000 + BAND_BYTES
    assert needed(2000, 1500, "L") == 3_000_000 + 1000 + BAND_BYTES
    assert needed(1000, 3000, "RGBA") == (4 + 4 + 1) * 3_000_000
    rows = Preprocessing(resize=256, crop=224, mean=(0, 0, 0), std=(1, 1, 1))
    assert rows.bytes_of_rows(4000, 3000) == 4 * 256 * 3000
    assert rows.model_copy(update={"fit": "squash"}).bytes_of_rows(4000, 3000) == 4 * 256 * 4000


def test_what_decoders_need_at_least_holds_a_picture_of_three_colours_and_a_small_one_of_any_format() -> None:
    assert least_bytes(50_000_000) == 250_000_000 <= DECODING_BYTES
    assert least_bytes(10_000) == 260_000
    assert DecodingRoom.of(50_000_000).size == 22 * 50_000_000
    assert DecodingRoom.of(1_000_000).size == DECODING_BYTES


def test_decoders_wait_for_room_and_what_never_fits_is_refused() -> None:
    room = DecodingRoom(100)
    with pytest.raises(ImageError, match="at most 100 are there") as caught, room.hold(101):
        pass
    assert caught.value.code == "too_many_pixels"
    entered = threading.Event()

    def second() -> None:
        with room.hold(50):
            entered.set()

    with room.hold(60):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.1)
        assert (room.held, room.waiting) == (60, 1)
    assert entered.wait(5)
    thread.join()
    assert (room.held, room.waiting) == (0, 0)


def test_a_picture_is_decoded_within_its_room() -> None:
    data = encoded(noise(), "BMP")
    assert np.array_equal(load_pixels(data, HOW, room=DecodingRoom(5 * 48 * 32)), load_pixels(data, HOW))
    with pytest.raises(ImageError, match="send it smaller"):
        load_pixels(data, HOW, room=DecodingRoom(5 * 48 * 32 - 1))


def test_the_limit_on_pixels_is_on_those_that_are_decoded() -> None:
    """A JPEG of 108 megapixels costs 1.7 at an eighth of its sides, and is refused at its full size."""
    data = encoded(Image.linear_gradient("L").resize((12_000, 9000)), "JPEG")
    how = HOW.model_copy(update={"resize": 224, "crop": 224})
    room = DecodingRoom(6 * 1500 * 1125)
    ramp = load_pixels(data, how, room=room)[:, 112, 0].astype(float)
    assert np.abs(ramp - np.linspace(0.5, 254.5, 224)).max() <= 2
    with pytest.raises(ImageError, match=r"12000 x 9000 pixels; at most 50,000,000 are accepted \(--max-pixels\)"):
        open_image(data)
    with pytest.raises(ImageError, match=r"12000 x 9000 pixels, 1500 x 1125 where it is decoded smaller; at most"):
        load_pixels(data, how, ImageLimits(max_pixels=1000))
    with pytest.raises(ImageError, match="--max-decode-work"):
        load_pixels(data, how, ImageLimits(max_work=107_999_999))
