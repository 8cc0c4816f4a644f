"""Pictures that another process decodes: their pixels, their turn, their limits, and what they are refused for."""

from __future__ import annotations

import io
import os
import signal
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oodguard.core import jxl_header
from oodguard.core.apart import BESIDE, PASSES, PictureApart, _Process
from oodguard.core.decoding import DecodingRoom, Effort
from oodguard.core.errors import ImageError
from oodguard.core.formats import FORMATS, format_of, formats_named
from oodguard.core.heif_header import transfer_of
from oodguard.core.jxl_header import JxlHeader
from oodguard.core.preprocessing import ImageLimits, Preprocessing, load_pixels, open_image

ALL = ImageLimits(formats=tuple(kind.name for kind in FORMATS))
HOW = Preprocessing(resize=16, crop=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# Grey levels: AVIF and HEIC hold another set of colours, and round them.
LOSS = 4
Values = npt.NDArray[np.uint8]


def picture(width: int = 96, height: int = 64) -> Values:
    """Smooth colours, whose corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 128 // width - y * 127 // height], -1).astype("u1")


def encoded(values: Values, kind: str, **options: Any) -> bytes:
    """As the format's real encoder writes it, as near to lossless as it has it."""
    if kind == "JXL":
        codecs = pytest.importorskip("imagecodecs")
        return bytes(codecs.jpegxl_encode(values, lossless=True, effort=1, **options))
    if kind == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
        kind, options = "HEIF", {"quality": -1, "chroma": 444, **options}
    if kind == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4", "speed": 9, **options}
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(params=[kind.name for kind in FORMATS if kind.apart])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    _Process.end_all()


def large(kind: str) -> tuple[int, int]:
    """A size that takes some hundredths of a second to decode, and not much longer to encode."""
    return (1600, 1200) if kind in ("AVIF", "HEIC") else (700, 500)


def difference(found: Image.Image, values: Values) -> int:
    return int(np.abs(np.asarray(found).astype(int) - values.astype(int)).max())


def test_every_format_gives_the_pixels_that_were_encoded(kind: str) -> None:
    for size in ((96, 64), (33, 57), (1, 1), (300, 700)):
        values = picture(*size)
        found = open_image(encoded(values, kind), ALL)
        assert (found.mode, found.size) == ("RGB", size)
        assert difference(found, values) <= (LOSS if kind in ("AVIF", "HEIC") else 0)


def test_grey_and_transparent_pictures(kind: str) -> None:
    grey = picture()[..., 0]
    assert difference(open_image(encoded(grey, kind), ALL), np.stack([grey] * 3, -1)) <= LOSS
    clear = np.dstack([picture(), np.zeros((64, 96), np.uint8)])
    assert np.asarray(open_image(encoded(clear, kind), ALL)).min() == 255
    half = np.dstack([np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 128, np.uint8)])
    assert abs(int(np.asarray(open_image(encoded(half, kind), ALL)).mean()) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_a_picture_is_turned_once(kind: str, orientation: int) -> None:
    # Pillow's writer of AVIF takes the orientation out of what it is given.
    lying, upright = Image.Exif(), Image.Exif()
    lying[0x0112] = upright[0x0112] = orientation
    data = encoded(picture(), kind, exif=lying if kind == "AVIF" else lying.tobytes())
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "PNG", exif=upright)
    right = open_image(stream.getvalue())
    found = open_image(data, ALL)
    assert found.size == right.size == ((64, 96) if orientation > 4 else (96, 64))
    assert difference(found, np.asarray(right)) <= LOSS


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_jpeg_xl_is_turned_once(orientation: int, turn: int) -> None:
    """No encoder here writes an orientation, so a header is written anew: that of a file without extra fields."""
    data = encoded(picture(), "JXL")
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    end, colours_end = header_ends(data)
    # Behind the mark and the size come: not all default, and no extra fields.
    assert bits[25:27] == "00"
    # The orientation and three flags; behind the colours, that the tone mapping is the default one.
    fields = "1" + f"{orientation - 1:03b}"[::-1] + "000"
    head = bits[:26] + fields + bits[27:colours_end] + "1" + bits[colours_end:end]
    head += "0" * (-len(head) % 8)
    turned = bytes(int(head[at : at + 8][::-1], 2) for at in range(0, len(head), 8)) + data[-(-end // 8) :]
    right = np.rot90(picture(), turn)
    assert JxlHeader.of(turned).size == (right.shape[1], right.shape[0])
    assert difference(open_image(turned, ALL), right) == 0


def header_ends(data: bytes) -> tuple[int, int]:
    """The bits at which the header ends, and before that its colours: the frames begin at the next whole byte."""
    bits = jxl_header._Bits(data)
    bits.take(16)
    jxl_header._size(bits)
    bits.take(2)
    jxl_header._bit_depth(bits)
    bits.take(1)
    assert bits.choice((0, 0), (1, 0), (2, 4), (1, 12)) == 0
    bits.take(1)
    # The colours are the default ones: one bit. Behind them: no extensions, and the default transform.
    assert jxl_header._transfer(bits) == 13
    colours = bits._place
    assert bits.take(2) == 0
    assert bits.take(1) == 1
    return bits._place, colours


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("kind", ["AVIF", "HEIC", "JXL", "JPEG2000"])
def test_more_than_8_bits_are_scaled(kind: str, bits: int) -> None:
    """A ramp of all levels comes out as that ramp in 8 bits, black as 0 and white as 255."""
    codecs = pytest.importorskip("imagecodecs")
    most = (1 << bits) - 1
    ramp = np.repeat(np.linspace(0, most, 1024).round().astype(np.uint16)[None], 64, 0)
    values = np.stack([ramp, ramp[:, ::-1], ramp // 2], -1)
    if kind == "AVIF":
        data = codecs.avif_encode(values, bitspersample=bits, level=100, pixelformat="444", speed=9)
    elif kind == "HEIC":
        heif = pytest.importorskip("pillow_heif")
        heif.options.SAVE_HDR_TO_12_BIT = bits == 12
        stream = io.BytesIO()
        wide = np.ascontiguousarray(values << (16 - bits))
        heif.from_bytes(mode="RGB;16", size=(1024, 64), data=wide.tobytes()).save(stream, quality=-1, chroma=444)
        data = stream.getvalue()
    elif kind == "JXL":
        data = codecs.jpegxl_encode(values, lossless=True, bitspersample=bits)
    else:
        data = codecs.jpeg2k_encode(values, bitspersample=bits, level=0, reversible=True)
    found = np.asarray(open_image(data, ALL)).astype(float)
    assert (found[..., 0].min(), found[..., 0].max()) == (0, 255)
    assert np.abs(found - values / most * 255).max() <= LOSS


@pytest.mark.parametrize(("code", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_hdr_is_refused_by_name(kind: str, code: int, name: str) -> None:
    data = bytearray(encoded(picture(), kind))
    place = data.index(b"colrnclx")
    assert transfer_of(bytes(data)) == struct.unpack_from(">H", data, place + 10)[0] not in (16, 18)
    struct.pack_into(">H", data, place + 10, code)
    assert transfer_of(bytes(data)) == code
    with pytest.raises(ImageError, match=rf"it is HDR \({name}\)") as caught:
        open_image(bytes(data), ALL)
    assert caught.value.code == "unsupported_type"


def test_the_first_picture_of_an_animation_is_used() -> None:
    values = picture()
    stream = io.BytesIO()
    others = [Image.fromarray(values[:, ::-1].copy()), Image.fromarray(255 - values)]
    Image.fromarray(values).save(stream, "AVIF", save_all=True, append_images=others, quality=100, subsampling="4:4:4")
    assert stream.getvalue()[8:12] == b"avis"
    assert difference(open_image(stream.getvalue()), values) <= LOSS


def test_tiles_of_a_heic_are_joined() -> None:
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.register_heif_opener()
    values = picture(500, 300)
    Image.fromarray(values).save(stream, "HEIF", quality=-1, chroma=444, tile_size=256)
    assert b"grid" in stream.getvalue()
    assert difference(open_image(stream.getvalue(), ALL), values) <= LOSS


def test_pixels_work_and_memory_are_bounded_before_anything_is_decoded(kind: str) -> None:
    data = encoded(picture(), kind)
    assert Effort.of(data, most=1000) == Effort(passes=PASSES, beside=BESIDE)
    pixels = 96 * 64
    with pytest.raises(ImageError, match=r"96 x 64 pixels; at most 6,143 are accepted \(--max-pixels\)") as caught:
        open_image(data, ALL.model_copy(update={"max_pixels": pixels - 1}))
    assert caught.value.code == "too_many_pixels"
    limits = ALL.model_copy(update={"max_work": PASSES * pixels})
    assert load_pixels(data, HOW, limits, DecodingRoom((5 + BESIDE) * pixels)).shape == (16, 16, 3)
    with pytest.raises(ImageError, match="--max-decode-work") as caught:
        open_image(data, limits.model_copy(update={"max_work": PASSES * pixels - 1}))
    assert caught.value.code == "too_much_work"
    with pytest.raises(ImageError, match="--max-decode-bytes"):
        load_pixels(data, HOW, ALL, DecodingRoom((5 + BESIDE) * pixels - 1))


def test_what_takes_too_long_is_ended_and_the_next_picture_is_decoded(kind: str, monkeypatch: Any) -> None:
    data = encoded(picture(*large(kind)), kind, **({"quality": 60} if kind in ("AVIF", "HEIC") else {}))
    monkeypatch.setattr(PictureApart, "_seconds", property(lambda _: 0.001, lambda *_: None), raising=False)
    with pytest.raises(ImageError, match=r"more than 0.001 s of processor time, which --max-decode-work") as caught:
        open_image(data, ALL)
    assert caught.value.code == "too_much_work"
    monkeypatch.undo()
    assert open_image(data, ALL).size == large(kind)


def test_what_takes_more_memory_than_its_size_gives_it_is_refused(kind: str, monkeypatch: Any) -> None:
    data = encoded(picture(*large(kind)), kind, **({"quality": 60} if kind in ("AVIF", "HEIC") else {}))
    monkeypatch.setattr("oodguard.core.apart.BESIDE", 1)
    monkeypatch.setattr("oodguard.core.apart.SLACK", 0)
    with pytest.raises(ImageError) as caught:
        open_image(data, ALL)
    assert caught.value.code in ("too_many_pixels", "cannot_decode")
    monkeypatch.undo()
    assert open_image(data, ALL).size == large(kind)


def test_damaged_pictures_are_refused_and_the_process_lives(kind: str) -> None:
    data = encoded(picture(400, 300), kind)
    open_image(data, ALL)
    (process,) = _Process._idle
    for size in (len(data) // 2, 100, 64, 40):
        if format_of(data[:size]) is None:
            continue
        with pytest.raises(ImageError) as caught:
            open_image(data[:size], ALL)
        assert caught.value.code in ("cannot_decode", "too_many_pixels"), caught.value
    assert difference(open_image(data, ALL), picture(400, 300)) <= LOSS
    assert _Process._idle == [process]


def test_a_decoder_that_was_ended_is_replaced() -> None:
    data = encoded(picture(), "AVIF")
    open_image(data)
    (process,) = _Process._idle
    os.kill(process._child.pid, signal.SIGKILL)
    process._child.wait()
    assert open_image(data).size == (96, 64)
    image = PictureApart(io.BytesIO(data), next(k for k in FORMATS if k.name == "AVIF"), most_work=10**9)
    assert image._process is not None
    os.kill(image._process._child.pid, signal.SIGSEGV)
    with pytest.raises(ImageError, match="it ended the AVIF decoder"):
        image.load()


def test_a_decoder_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODGUARD_SERVE_KEY_HASHES", "secret")
    open_image(encoded(picture(), "AVIF"))
    (process,) = _Process._idle
    with open(f"/proc/{process._child.pid}/environ", "rb") as stream:
        assert b"secret" not in stream.read()


@pytest.mark.parametrize("kind", ["HEIC", "JXL", "JPEG2000"])
def test_a_format_that_was_not_asked_for_is_refused_with_the_option_that_reads_it(kind: str) -> None:
    with pytest.raises(ImageError, match=f"--formats default,{kind.lower()} reads them") as caught:
        open_image(encoded(picture(), kind))
    assert caught.value.code == "unsupported_type"


def test_formats_are_named() -> None:
    assert formats_named("default") == ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
    assert formats_named("png, JPEG") == ("JPEG", "PNG")
    assert formats_named("default,jpeg2000")[-1] == "JPEG2000"
    with pytest.raises(ValueError, match="'svg' is no image format; choose of default, jpeg, "):
        formats_named("default,svg")
