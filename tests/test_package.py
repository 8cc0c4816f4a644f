"""`import oodguard`: quick, and a guard in this process without a server, a trainer or a client."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import oodguard

ROOT = Path(__file__).parents[1]
# Whatever these bring, a guard in the caller's own process does without.
ABSENT = (
    *("torch", "torchvision", "timm", "sklearn", "scipy", "onnx", "matplotlib", "jinja2"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic_settings", "httpx", "tritonclient"),
    *("cyclopts", "rich", "pyarrow", "ray"),
)


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_every_name_of_the_package_is_there() -> None:
    assert dir(oodguard) == sorted(oodguard.__all__)
    for name in oodguard.__all__:
        assert getattr(oodguard, name) is not None
    assert oodguard.__version__ == importlib.metadata.version("oodguard")
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = oodguard.laod  # type: ignore[attr-defined]


def test_type_checkers_see_what_is_imported_late(tmp_path: Path) -> None:
    program = tmp_path / "use.py"
    program.write_text(
        """
import asyncio
from typing_extensions import assert_type
import oodguard

with oodguard.load("bundle", sessions=2) as guard:
    assert_type(guard.predict(b""), oodguard.PredictResponse)
    for result in guard.stream(["photo.jpg"]):
        assert_type(result, oodguard.Result)

async def ask() -> None:
    async with oodguard.aload("bundle") as guard:
        assert_type(await guard.predict("photo.jpg"), oodguard.PredictResponse)
    assert_type(await oodguard.aload("bundle"), oodguard.AsyncGuard)
    oodguard.laod("bundle")
    oodguard.load("bundle", sesions=2)
    oodguard.aload("bundle", sesions=2)
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    wrong = [line.rpartition("[")[2] for line in ran.stdout.splitlines() if ": error: " in line]
    assert wrong == ["attr-defined]", "call-arg]", "call-arg]"], ran.stdout


def test_importing_the_package_imports_nothing_else() -> None:
    ran = python("import oodguard, sys; print(*({'numpy', 'pydantic', 'PIL', 'asyncio'} & set(sys.modules)))")
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


def test_a_guard_answers_where_nothing_else_is_installed(bundle: Path, strangers: Path) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
import oodguard
guard = oodguard.load(sys.argv[1])
print(guard.predict(sys.argv[2]).predictions[0].is_ood)
"""
    # It is not closed either: the process ends all the same.
    ran = python(program, bundle, sorted(strangers.rglob("*.png"))[0])
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "True\n", "")


def test_a_missing_engine_is_named(bundle: Path) -> None:
    program = """
import sys
sys.modules["onnxruntime"] = None
import oodguard
try:
    oodguard.load(sys.argv[1])
except oodguard.OodguardError as error:
    print(error)
"""
    ran = python(program, bundle)
    assert "onnxruntime is not installed; pip install 'oodguard[guard]'" in ran.stdout
