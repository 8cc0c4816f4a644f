"""Text from outside, made fit for a page: names of files, folders and classes may hold anything."""

from __future__ import annotations

import re

# Control characters, lone surrogates (undecodable file names) and non-characters may not stand in HTML.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# These reorder the text around them.
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Untrusted text with every character that a page cannot hold replaced by U+FFFD. It is not escaped yet."""
    return _REORDERING.sub("\ufffd", _FORBIDDEN.sub("\ufffd", text))


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, as every page writes it: `82.8 %`."""
    return f"{100 * share:.{digits}f} %"


def interval(low: float, high: float, digits: int = 1) -> str:
    """An interval of shares in percent: `80.9 to 84.6 %`."""
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


def count(number: int, noun: str) -> str:
    """`1 image`, `1,704 images`, `34 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
