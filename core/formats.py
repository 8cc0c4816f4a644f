"""The image formats that are read: THE table of names, suffixes, content types and first bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageFormat:
    """One format.

    name: Pillow's. suffixes: lower case, the usual one first. magic: a pattern that the file's first bytes match.
    """

    name: str
    suffixes: tuple[str, ...]
    content_type: str
    magic: re.Pattern[bytes]


def _format(name: str, suffixes: str, content_type: str, magic: bytes) -> ImageFormat:
    return ImageFormat(name, tuple(suffixes.split()), content_type, re.compile(magic, re.DOTALL))


FORMATS = (
    _format("JPEG", ".jpg .jpeg", "image/jpeg", rb"\xff\xd8\xff"),
    _format("PNG", ".png", "image/png", rb"\x89PNG\r\n\x1a\n"),
    _format("WEBP", ".webp", "image/webp", rb"RIFF.{4}WEBP"),
    _format("GIF", ".gif", "image/gif", rb"GIF8[79]a"),
    _format("BMP", ".bmp", "image/bmp", rb"BM"),
    _format("TIFF", ".tif .tiff", "image/tiff", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
)
FORMAT_NAMES = tuple(kind.name for kind in FORMATS)
IMAGE_SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)


def format_of(data: bytes) -> ImageFormat | None:
    """The format that an encoded image's first bytes name; None for bytes of no supported format."""
    return next((kind for kind in FORMATS if kind.magic.match(data)), None)
