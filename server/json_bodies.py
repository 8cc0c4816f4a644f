"""What a JSON body may hold, counted before it is parsed: a value takes up to fifty times the memory of its text."""

from __future__ import annotations

import re

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError

STEP = 64 * 1024
SEPARATORS = b",[{"
# Possessive, so that a string that does not end is not tried twice.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# Strings and values beside the images: names, shapes and parameters.
OTHERS = 1024


def require_small_json(body: bytes, *, most_bytes: int, most_strings: int, most_values: int) -> None:
    """Raise `RequestError` for JSON of too many bytes, strings or values. Whether it is JSON, the parser says.

    Values are counted by what stands before or between them, outside strings; the count ends at one too many.
    """
    if len(body) > most_bytes:
        raise RequestError(
            Code.BODY_TOO_LARGE,
            f"the JSON is larger than {most_bytes:,} bytes; send the images as multipart/form-data or in binary, "
            "or fewer of them",
        )
    escapes = b"\\" in body
    strings = values = place = 0
    while True:
        quote = body.find(b'"', place)
        end = len(body) if quote < 0 else quote
        for start in range(place, end, STEP):
            piece = body[start : min(start + STEP, end)]
            values += len(piece) - len(piece.translate(None, SEPARATORS))
            if values > most_values:
                raise RequestError(
                    Code.BAD_BODY,
                    f"the JSON holds more than {most_values:,} values; send one string for each image, or tensors in "
                    "binary",
                )
        if quote < 0:
            return
        strings += 1
        if strings > most_strings:
            raise RequestError(
                Code.TOO_MANY_FILES, f"the JSON holds more than {most_strings:,} strings; send fewer images at once"
            )
        if escapes:
            found = STRING.match(body, quote)
            place = found.end() if found else len(body)
        else:
            place = body.find(b'"', quote + 1) + 1 or len(body)
