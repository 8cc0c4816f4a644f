"""Data flows one way: the import rule of ARCHITECTURE.md, read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("pages", "training", "export", "server", "clients", "cli")
# What downstream stages may import; none of these may reach torch.
OPEN = {
    "oodguard.training.contract",
    "oodguard.training.preprocess",
    "oodguard.training.calibration",
    "oodguard.training.errors",
    "oodguard.export.contract",
    "oodguard.export.verdict",
    "oodguard.export.triton.contract",
    "oodguard.server.contract",
    "oodguard.pages.page",
    "oodguard.pages.plot",
    "oodguard.pages.text",
    "oodguard.pages.thumbnail",
    "oodguard.server.errors",
}
LIGHT = {"numpy", "PIL", "pydantic", "oodguard"}
# Pages draw with these; a plot imports matplotlib when it is drawn, and not before.
PAGES = {"jinja2", "markupsafe", "matplotlib"}
UPSTREAM = {
    "pages": set(),
    "training": {"pages"},
    "export": {"pages", "training"},
    "server": {"training", "export"},
    "clients": {"pages", "training", "export", "server"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
    return found


def sources(stage: str) -> list[Path]:
    return sorted((ROOT / stage).rglob("*.py"))


@pytest.mark.parametrize("stage", UPSTREAM)
def test_a_stage_imports_only_what_lies_upstream(stage: str) -> None:
    assert sources(stage)
    for path in sources(stage):
        for name in imports(path):
            if not name.startswith("oodguard."):
                assert name.split(".")[0] not in STAGES, f"{path} imports {name} by its flat name"
                continue
            other = name.split(".")[1]
            if other == stage:
                continue
            assert other in UPSTREAM[stage], f"{path} imports {name}, which is downstream"
            torch_allowed = stage == "export" and path.name != "contract.py"
            assert torch_allowed or name in OPEN, f"{path} imports {name}, which is not open to it"


@pytest.mark.parametrize("module", sorted(OPEN))
def test_open_modules_are_light(module: str) -> None:
    path = ROOT / (module.removeprefix("oodguard.").replace(".", "/") + ".py")
    for name in imports(path):
        top = name.split(".")[0]
        standard = top in __import__("sys").stdlib_module_names
        allowed = LIGHT | PAGES if path.parent.name == "pages" else LIGHT
        assert standard or top in allowed, f"{path} imports {name}"
        if top == "oodguard":
            assert name in OPEN, f"{path} imports {name}"


def test_nobody_imports_the_command_line() -> None:
    for stage in UPSTREAM:
        for path in sources(stage):
            assert not any(name == "oodguard.cli" or name.startswith("oodguard.cli.") for name in imports(path)), path


def test_no_file_is_a_drawer() -> None:
    for stage in STAGES:
        for path in sources(stage):
            assert path.stem not in {"utils", "helpers", "common", "misc"}, path
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
