"""Text from outside, and the rows it stands in."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest

from oodguard.core.text import cell, json_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Äpfel, 苹果 and 🍏.jpg", "Äpfel, 苹果 and 🍏.jpg"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("bell\a, back\b, return\r, tab\t, line\n", r"bell\x07, back\x08, return\x0d, tab\x09, line\x0a"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("two\u2028lines", r"two\u2028lines"),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("\x7f", r"\x7f"),
    ],
)
def test_what_acts_on_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_no_control_character_is_left_and_what_is_kept_is_kept() -> None:
    every = "".join(map(chr, range(0x3000)))
    assert {unicodedata.category(c) for c in visible(every)}.isdisjoint({"Cc", "Zl", "Zp", "Cs"})
    assert visible("a\tb\nc\x1b", keep="\n") == "a\\x09b\nc\\x1b"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1.jpg", "'=1+1.jpg"),
        ("+49.jpg", "'+49.jpg"),
        ("-5.jpg", "'-5.jpg"),
        ("@SUM(A1).jpg", "'@SUM(A1).jpg"),
        ("'=1.jpg", "''=1.jpg"),
        ("\t=1.jpg", r"\x09=1.jpg"),
        ("a=1, b+2.jpg", "a=1, b+2.jpg"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_and_one_quote_less_is_the_text(text: str, written: str) -> None:
    assert cell(text) == written
    stream = io.StringIO()
    csv.writer(stream).writerow([cell(text), "x"])
    read = next(csv.reader(io.StringIO(stream.getvalue())))[0]
    assert (read.removeprefix("'") if read.startswith("'") else read) == visible(text)


def test_a_line_of_json_reads_back_as_it_is_and_acts_on_nothing() -> None:
    value = {"path": "ü\x1b\x9b\x7f\u202e\u2028\udcff", "n": 1.5, "no": None}
    line = json_line(value)
    assert json.loads(line) == value
    assert "ü" in line
    assert visible(line) == line
