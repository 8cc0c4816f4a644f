"""Images as text, in the forms that senders write: base64 with or without lines and padding, and `data:` URIs."""

from __future__ import annotations

import base64
import binascii

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

# What may be escaped in a URI that holds base64. (`unquote` would take fifty times the memory of a text of escapes.)
ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%0A": "\n", "%0D": "\r", "%09": "\t", "%20": " "}
# A long text of shorter lines is no base64 that anybody writes, and would take long.
SHORTEST_LINE = 16
SHORT_LINES = 10_000
URL_SAFE = str.maketrans("-_", "+/")


def decoded(text: str) -> bytes | ImageError:
    """The bytes of a base64 string or of a base64 `data:` URI; the image's error where it is neither.

    Line breaks, the URL-safe alphabet and missing padding are read as what they stand for. Both alphabets in one
    string, other characters, and a length that no bytes have are refused: they are a damaged upload.
    """
    text = text.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or head.rpartition(";")[2].strip().lower() != "base64":
            return _not_base64()
        if "%" in text:
            for escape, character in ESCAPES.items():
                text = text.replace(escape, character).replace(escape.lower(), character)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        joined = _joined(text.strip())
        if joined is None:
            return _not_base64()
        text = joined
    if ("-" in text or "_" in text) and not ("+" in text or "/" in text):
        text = text.translate(URL_SAFE)
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return _not_base64()


def _joined(text: str) -> str | None:
    """The lines of a text as one, without blanks at their ends; None for lines that are too short.

    A blank within a line stays: it is no base64, but often a "+" that a form has eaten.
    """
    breaks = text.count("\n") + text.count("\r")
    if not breaks:
        return text
    if breaks > SHORT_LINES + 2 * len(text) // SHORTEST_LINE:
        return None
    return "".join(line.strip(" \t") for line in text.replace("\r", "\n").split("\n"))


def _not_base64() -> ImageError:
    return ImageError(Code.BAD_BASE64, "not a base64 string or a base64 data: URI; encode the bytes of the file")
