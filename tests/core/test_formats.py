from __future__ import annotations

import io

import pytest
from PIL import Image, features

from oodguard.core.formats import FORMATS, IMAGE_SUFFIXES, ImageFormat, format_of
from oodguard.core.preprocessing import ImageLimits, open_image


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if not kind.module], ids=lambda kind: kind.name)
def test_every_format_is_read_and_known_by_its_first_bytes(kind: ImageFormat) -> None:
    """A format of the table that Pillow cannot read, or that is not told from its bytes, fails here."""
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 60)).save(stream, kind.name)
    data = stream.getvalue()
    assert format_of(data) is kind
    assert open_image(data, ImageLimits(formats=(kind.name,))).size == (9, 7)
    Image.init()
    for suffix in kind.suffixes:
        assert Image.EXTENSION[suffix] in (kind.name, "MPO" if kind.name == "JPEG" else kind.name)
        assert kind.content_type == Image.MIME[kind.name]


def test_big_and_little_endian_tiff() -> None:
    for data in (b"II*\0", b"MM\0*"):
        found = format_of(data + b"junk")
        assert found is not None
        assert found.name == "TIFF"


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"RIFF....WAVE", b"<html>", b"%PDF-1.7", b"PK\x03\x04"])
def test_other_bytes_are_of_no_format(data: bytes) -> None:
    assert format_of(data) is None


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x20ftypavis\0\0\0\0avifavismsf1", "AVIF"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafheic", "HEIC"),
        (b"\0\0\0\x1cftypmsf1\0\0\0\0msf1miafhevc", "HEIC"),
        (b"\0\0\0\x1cftypmp42\0\0\0\0isommp42", None),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafjpeg", None),
        (b"\xff\x0a\x0f\x41", "JXL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JXL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG2000"),
    ],
)
def test_boxes_and_codestreams_are_told_apart(data: bytes, name: str | None) -> None:
    found = format_of(data)
    assert (found.name if found else None) == name


def test_a_suffix_belongs_to_one_format() -> None:
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert features.check("webp")
