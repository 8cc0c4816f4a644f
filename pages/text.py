"""Untrusted text, made safe for a page (names of files and classes may hold anything), and numbers as text."""

from __future__ import annotations

import re

NO_BREAK = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

# Control characters, lone surrogates (undecodable file names) and non-characters may not stand in HTML.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# These reorder the text around them.
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Untrusted text, with U+FFFD in place of every character that a page cannot hold. It still needs escaping."""
    return _REORDERING.sub("\ufffd", _FORBIDDEN.sub("\ufffd", text))


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, which never breaks over two lines: `82.8 %`."""
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """An interval of shares in percent: `80.9 to 84.6 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f}{NO_BREAK}%"


def bracketed(value: float, bounds: tuple[float, float]) -> str:
    """A share and its interval in percent, without the sign: `98.9 (98.5 - 99.2)`, with an en dash."""
    low, high = (f"{100 * bound:.1f}" for bound in bounds)
    return f"{100 * value:.1f} ({low}{DASH}{high})"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign; a number that rounds to 0 has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def count(number: int, noun: str) -> str:
    """A number and its noun: `1 image`, `1,704 images`, `34 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
