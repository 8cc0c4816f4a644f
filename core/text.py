"""Text from outside (names of files, members and classes), written so that nothing that shows it acts on it."""

from __future__ import annotations

import json
import re

# Control characters, halves of surrogate pairs, and the characters that break lines or reorder the text around them.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNDECODED = re.compile("[\ud800-\udfff]")
# What spreadsheets take for a formula, and the quote itself, so that taking one quote off gives the text back.
_FORMULA = re.compile("[=+\\-@']")


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with an escape such as `\x1b` in place of each character that acts on what shows it, except `keep`.

    ```python
    visible("a\x1b[2Jb\udcff")   # a\x1b[2Jb\xff
    ```

    A byte of a file name that is not UTF-8 becomes `\xNN`, too.
    """
    return _ACTIVE.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def readable(name: str) -> str:
    r"""A file name as text that any program can read: bytes that are not UTF-8 become escapes such as `\xff`."""
    return _UNDECODED.sub(lambda match: _escaped(match[0]), name)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that could not be decoded
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def cell(text: str) -> str:
    """The text as a cell of a CSV file: `visible`, and with `'` in front where it begins with = + - @ or '.

    Spreadsheets would run such a cell as a formula. Whoever reads the file by program takes one leading ' off.
    """
    shown = visible(text)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def json_line(value: object) -> str:
    """The value as one line of JSON, which reads back as it is: letters as letters, active characters escaped."""
    return _ACTIVE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
