"""One name, one thing: no two classes of the product share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_two_classes_share_a_name() -> None:
    found: defaultdict[str, set[str]] = defaultdict(set)
    rooms = [room for room in (ROOT / "oodguard").iterdir() if room.is_symlink() and room.name != "load_tests"]
    for room in rooms:
        for path in room.rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].add(str(path.relative_to(ROOT)))
    assert len(found) > 200
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
