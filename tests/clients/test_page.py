"""docs/CLIENT.md: its programs are typed, and its tables name every argument, field and code there is."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oodguard.clients import AsyncClient, Client, ClientError
from oodguard.clients import errors as client_errors
from oodguard.core.answers import Prediction, PredictResponse
from oodguard.core.codes import Code
from oodguard.core.targets import TARGET_NAMES
from tests.packages import ROOT
from tests.test_documents import blocks

PAGE = ROOT / "docs" / "CLIENT.md"


def section(heading: str) -> set[str]:
    """What the first columns of the tables of a section name."""
    text = re.split(rf"^## {heading}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| (`.*?) \|", text.partition("\n## ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_every_argument_is_named(client: type[Client] | type[AsyncClient]) -> None:
    made = set(inspect.signature(client).parameters)
    asked = {*inspect.signature(client.predict).parameters, *TARGET_NAMES} - {"self", "targets"}
    assert section("Ask") == made | asked


def test_every_field_is_named() -> None:
    # Only bundles of a certified head have the radius; docs/API.md says the rest.
    unusual = {"certified_radius"}
    named = section("What an answer holds")
    assert named == set(Prediction.model_fields) - unusual
    text = PAGE.read_text(encoding="utf-8")
    for name in set(PredictResponse.model_fields) - {*TARGET_NAMES, "source"}:
        assert f"`{name}`" in text, name


def test_every_error_of_the_clients_is_named_and_codes_exist() -> None:
    ours = [one for one in vars(client_errors).values() if isinstance(one, type) and issubclass(one, ClientError)]
    named = section("Errors")
    assert {one.__name__ for one in ours} - {"ClientError"} <= named
    codes = {name for name in named if name.islower()}
    assert len(codes) > 10
    assert codes <= set(Code)


def test_programs_are_typed(tmp_path: Path) -> None:
    programs = [block.body for block in blocks(PAGE) if block.kind == "python"]
    assert len(programs) >= 6
    for number, program in enumerate(programs):
        (tmp_path / f"program_{number}.py").write_text(program, encoding="utf-8")
    wrong = tmp_path / "program_wrong.py"
    wrong.write_text(programs[0].replace("accept=", "acept="), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    ran = subprocess.run(
        [*command, *map(str, sorted(tmp_path.glob("*.py")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    faults = [line for line in ran.stdout.splitlines() if ": error: " in line]
    assert len(faults) == 1, ran.stdout
    assert "program_wrong.py" in faults[0]
    assert "acept" in faults[0]
