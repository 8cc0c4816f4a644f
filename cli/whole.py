"""Whole numbers on the command line: cyclopts would round 2.7 to 3 without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

NOT_WHOLE = "is not a whole number"


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} {NOT_WHOLE}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
