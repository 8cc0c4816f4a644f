from __future__ import annotations

import io

import pytest
from PIL import Image, features

from oodguard.core.formats import FORMATS, IMAGE_SUFFIXES, ImageFormat, format_of
from oodguard.core.preprocessing import open_image


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_format_is_read_and_known_by_its_first_bytes(kind: ImageFormat) -> None:
    """A format of the table that Pillow cannot read, or that is not told from its bytes, fails here."""
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 60)).save(stream, kind.name)
    data = stream.getvalue()
    assert format_of(data) is kind
    assert open_image(data).size == (9, 7)
    Image.init()
    for suffix in kind.suffixes:
        assert Image.EXTENSION[suffix] == kind.name
        assert kind.content_type == Image.MIME[kind.name]


def test_big_and_little_endian_tiff() -> None:
    for data in (b"II*\0", b"MM\0*"):
        found = format_of(data + b"junk")
        assert found is not None
        assert found.name == "TIFF"


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"RIFF....WAVE", b"<html>", b"%PDF-1.7", b"PK\x03\x04"])
def test_other_bytes_are_of_no_format(data: bytes) -> None:
    assert format_of(data) is None


def test_a_suffix_belongs_to_one_format() -> None:
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert features.check("webp")
