"""Images as text, in the forms that senders write: base64 with or without lines and padding, and `data:` URIs."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

# White space at a line break; a blank within a line is no base64, but often a "+" that a form has eaten.
LINE_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")
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
        text = unquote(text) if "%" in text else text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        text = LINE_BREAK.sub("", text.strip())
    if ("-" in text or "_" in text) and not ("+" in text or "/" in text):
        text = text.translate(URL_SAFE)
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return _not_base64()


def _not_base64() -> ImageError:
    return ImageError(Code.BAD_BASE64, "not a base64 string or a base64 data: URI; encode the bytes of the file")
