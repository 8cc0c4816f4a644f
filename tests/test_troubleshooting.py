"""docs/TROUBLESHOOTING.md quotes messages as the program writes them; one that is written otherwise fails here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from tests.packages import ROOT

PAGE = ROOT / "docs" / "TROUBLESHOOTING.md"
ROOMS = sorted(path.name for path in (ROOT / "oodguard").iterdir() if path.is_symlink() and path.name != "load_tests")
CHART = ROOT / "helm" / "oodguard" / "templates" / "_validate.tpl"
REST = "..."
# Of the words of a message, what must stand in the code as it is; the others are names and numbers.
LEAST = 15
GROUPS = (
    "check and train",
    "wrap",
    "evaluate, export and compare",
    "serve",
    "predict and the clients",
    "score and drift",
)


@dataclass(frozen=True)
class Template:
    """A text of the program: literal pieces, with something else between each two of them."""

    pieces: tuple[str, ...]

    def writes(self, message: str) -> bool:
        """Whether the program can write this; a message that ends in "..." is the beginning of one."""
        if not message.endswith(REST):
            return self._fits(self.pieces, message)
        begun = message.removesuffix(REST).rstrip()
        for number, last in enumerate(self.pieces):
            before = self.pieces[:number]
            if not all(piece in begun for piece in before):
                return False
            for length in range(len(last) + 1):
                # With no character of the last piece, what stood between it and the one before is cut short.
                start = begun.removesuffix(last[:length])
                if length == 0 or start != begun:
                    enough = self._literal(before) + length >= LEAST
                    if enough and re.fullmatch(self._pattern((*before, "")) if before else "", start):
                        return True
        return False

    def _fits(self, pieces: tuple[str, ...], message: str) -> bool:
        # The first two are quick, and settle nearly all.
        if self._literal(pieces) < LEAST or not all(piece in message for piece in pieces):
            return False
        return re.fullmatch(self._pattern(pieces), message) is not None

    @staticmethod
    def _pattern(pieces: tuple[str, ...]) -> str:
        return ".*?".join(map(re.escape, pieces))

    @staticmethod
    def _literal(pieces: tuple[str, ...]) -> int:
        return sum(map(len, pieces))


def pieces(node: ast.expr) -> tuple[str, ...] | None:
    """The literal pieces of a string, of an f-string, of one with %s, or of one with {}."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return tuple(re.split(r"%[-\w.]*[sdgv]|\{[\w:.]*\}", node.value))
    if not isinstance(node, ast.JoinedStr):
        return None
    found = [""]
    for part in node.values:
        if isinstance(part, ast.Constant):
            found[-1] += str(part.value)
        else:
            found.append("")
    return tuple(found)


def written() -> Iterator[tuple[str, ...]]:
    for path in (ROOT / "oodguard" / "__init__.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = pieces(node) if isinstance(node, ast.expr) else None
            if found is not None:
                yield found
    for text in re.findall(r'\$problems \(?(?:printf )?"([^"]+)"', CHART.read_text(encoding="utf-8")):
        yield tuple(re.split(r"%[dsv]", text))


@cache
def templates() -> frozenset[Template]:
    return frozenset(Template(found) for found in written() if sum(map(len, found)) >= LEAST)


def rows() -> dict[str, list[tuple[str, str, str]]]:
    """The rows of each section: message, what it means, what to do."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| `"):
            message, meaning, remedy = (cell.strip() for cell in line.strip("|").split(" | "))
            found.setdefault(section, []).append((message, meaning, remedy))
    return found


MESSAGES = [message for section in rows().values() for message, _, _ in section]


def quoted(cell: str) -> str:
    """The message in a cell, without the code that may follow it."""
    found = re.fullmatch(r"`([^`]+)`(\.\.\.)?(?: \(`\w+`\))?", cell)
    assert found, cell
    return found[1] + (found[2] or "")


@pytest.mark.parametrize("message", MESSAGES)
def test_the_program_writes_what_the_page_quotes(message: str) -> None:
    said = quoted(message)
    assert any(template.writes(said) for template in templates()), f"no line of the code writes: {said}"


def test_every_message_says_what_it_means_and_what_to_do() -> None:
    assert len(MESSAGES) >= 60
    assert len(set(MESSAGES)) > len(MESSAGES) - 3
    assert {*GROUPS, "Helm and Kubernetes", "Triton"} <= set(rows())
    for section in rows().values():
        assert len(section) >= 4
        assert all(meaning and remedy for _, meaning, remedy in section)


@pytest.mark.parametrize(
    ("said", "can"),
    [
        ("results.csv exists; choose another --out, or add --overwrite to replace it", True),
        ("results.csv exists; choose another --out ...", True),
        ("results.csv exists; choose another --out", False),
        ("results.csv exists; pick another --out, or add --overwrite to replace it", False),
        ("results.csv exists; pick ...", False),
        ("photos ...", False),
    ],
)
def test_a_message_that_is_written_otherwise_is_noticed(said: str, can: bool) -> None:
    template = Template(("", " exists; choose another --out, or add --overwrite to replace it"))
    assert template.writes(said) is can
