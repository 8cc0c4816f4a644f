"""Data flows one way: the table of rooms in ARCHITECTURE.md, held against the imports of the source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Room:
    """One row of the table."""

    name: str
    may_import: frozenset[str]
    must_not_import: frozenset[str]


def words(cell: str) -> frozenset[str]:
    return frozenset(word.strip() for word in cell.split(",") if word.strip() not in ("", "-"))


def rooms() -> dict[str, Room]:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("<!-- rooms -->")[1].split("<!-- /rooms -->")[0]
    found = {}
    for line in table.strip().splitlines()[2:]:
        name, may, must_not, _ = (cell.strip() for cell in line.strip("|").split("|"))
        name = name.strip("`/")
        found[name] = Room(name, words(may), words(must_not))
    return found


ROOMS = rooms()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; `from a import b` gives both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_the_table_lists_every_room_of_the_package() -> None:
    linked = {path.name for path in (ROOT / "oodguard").iterdir() if path.is_symlink()}
    assert linked == {*ROOMS, "load_tests"}
    for name in linked:
        assert (ROOT / "oodguard" / name).resolve() == ROOT / name


@pytest.mark.parametrize("room", ROOMS.values(), ids=lambda room: room.name)
def test_a_room_imports_only_what_the_table_allows(room: Room) -> None:
    assert sources(room.name)
    unknown = room.may_import - set(ROOMS)
    assert not unknown, f"the table lets {room.name} import {unknown}, which is no room"
    for path in sources(room.name):
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in (*ROOMS, "load_tests"), f"{path} imports {name}: import oodguard.{name}"
            if top == "oodguard" and rest:
                other = rest.split(".")[0]
                allowed = other == room.name or other in room.may_import or other not in (*ROOMS, "load_tests")
                assert allowed, f"{path} imports {name}"
            assert top not in room.must_not_import, f"{path} imports {name}"


def test_the_table_has_no_cycle() -> None:
    waiting = dict(ROOMS)
    while waiting:
        free = [name for name, room in waiting.items() if not room.may_import & set(waiting)]
        assert free, f"{sorted(waiting)} import each other"
        for name in free:
            del waiting[name]


@pytest.mark.parametrize("folder", [*ROOMS, "load_tests", "helm", "images", "examples", "tests"])
def test_no_file_is_a_drawer(folder: str) -> None:
    for path in sources(folder):
        assert not re.fullmatch(r"utils?|helpers?|common|misc", path.stem), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
