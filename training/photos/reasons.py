"""Why a file is no photo: what its bytes are instead, or what is missing from them."""

from __future__ import annotations

import re
from collections.abc import Callable

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.formats import format_of
from oodguard.core.photo_folders import HEAD

# What people and programs leave among photos, by first bytes; the first pattern that matches names the file.
_OTHERS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (rb"(\xef\xbb\xbf)?\s*(<!--.{0,512}?-->\s*)?<(!doctype html|html|head|body)\b", "an HTML page"),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,512}?)?(<!doctype svg.{0,512}?)?<svg\b", "an SVG drawing"),
        (rb"(\xef\xbb\xbf)?\s*<\?xml\b", "an XML file"),
        (rb"%PDF-", "a PDF document"),
        (rb"version https://git-lfs", "a Git LFS pointer; fetch the photo itself with git lfs pull"),
        (rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "a HEIC photo; convert it to JPEG"),
        (rb".{4}ftyp(avif|avis)", "an AVIF picture; convert it to JPEG"),
        (rb".{4}ftyp", "a video"),
        (rb"RIFF.{4}AVI |\x1a\x45\xdf\xa3", "a video"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture; convert it to JPEG"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture; convert it to JPEG"),
        (rb"8BPS", "a Photoshop file; export it as JPEG or PNG"),
        (rb"\0\0[\x01\x02]\0[^\0]", "an icon"),
        (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "an archive"),
        (rb"\0{16}", "nothing but zero bytes"),
    )
)
# Which of these are photos.
_PHOTOS = ("a HEIC ", "an AVIF ", "a JPEG XL ", "a JPEG 2000 ", "a Photoshop ")
# How each format says that it is whole.
_WHOLE: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: data.rstrip(b"\0").endswith(b"\xff\xd9"),
    "PNG": lambda data: b"IEND" in data[-64:],
    "WEBP": lambda data: int.from_bytes(data[4:8], "little") + 8 <= len(data),
    "GIF": lambda data: data.rstrip(b"\0").endswith(b";"),
    "BMP": lambda data: int.from_bytes(data[2:6], "little") <= len(data),
}


def content(head: bytes) -> str:
    """What a file that is no photo is, from its first bytes, such as "an HTML page"."""
    if not head:
        return "empty (0 bytes)"
    for pattern, name in _OTHERS:
        if pattern.match(head):
            return name
    if b"\0" not in head and _is_text(head):
        return "text"
    return "not an image of a supported type"


def is_picture(head: bytes) -> bool:
    """Whether a file is a photo of a kind that is not read, from its first bytes."""
    return content(head).startswith(_PHOTOS)


def reason(data: bytes, error: ImageError) -> str:
    """Why a file that was refused with `error` cannot be used, as people say it."""
    kind = format_of(data)
    if error.code == Code.EMPTY or (error.code == Code.UNSUPPORTED_TYPE and kind is None):
        return content(data[:HEAD])
    if error.code != Code.CANNOT_DECODE or kind is None:
        return str(error)
    whole = _WHOLE.get(kind.name)
    short = "truncated" in str(error) if whole is None else not whole(data)
    return f"cut short: a {kind.name} file without its end" if short else f"a damaged {kind.name} file"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A letter may be cut in two where the head ends.
        return error.start > len(head) - 4 and len(head) == HEAD
    return True
