"""The wheel holds every module, and nothing a flat import would find."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "pages", "training", "evaluation", "bench", "export", "server", "clients", "cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, tree = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("tree")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        source = ROOT / name
        if source.is_symlink() or source.is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, tree / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert f"oodguard/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "server" / "static").iterdir():
        assert f"oodguard/server/static/{path.name}" in names
    assert not any(name.split("/")[0] in (*FOLDERS, "tests", "load_tests") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
    assert {"oodguard/pages/page.html", "oodguard/pages/page.css"} <= names


def test_the_serving_extra_brings_no_training_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name in ("serve", "serve-gpu", "client", "cli"):
        for requirement in extras[name]:
            assert not requirement.startswith(("torch", "timm", "scikit-learn", "scipy", "oodguard[train"))


HEAVY = {
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "fastapi",
    "uvicorn",
    "matplotlib",
    "ray",
}


def installed_with(package: str, extra: str) -> set[str]:
    """Everything that pip would install for `package[extra]`, by the metadata of what is installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [(package, extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                waiting += [(canonicalize_name(requirement.name), one) for one in ("", *requirement.extras)]
    return {name for name, _ in found}


@pytest.mark.parametrize("extra", ["client", "cli", "load"])
def test_clients_bring_neither_torch_nor_a_server(extra: str) -> None:
    brought = installed_with("oodguard", extra)
    assert {"oodguard", "pydantic", "numpy", "rich"} <= brought
    assert ("httpx" in brought) == (extra != "cli")
    # Locust comes with gevent and Flask, and with nothing of these either.
    assert not brought & HEAVY


def test_the_walk_finds_what_other_extras_bring() -> None:
    assert {"fastapi", "starlette", "onnxruntime", "uvicorn"} <= installed_with("oodguard", "serve")
    assert "torch" in installed_with("oodguard", "export")


def test_the_client_runs_where_nothing_heavy_is_installed() -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(name.replace("-", "_") for name in HEAVY - {"matplotlib"})!r}))
import oodguard.clients.aio, oodguard.clients.http, oodguard.clients.review, oodguard.cli.predict
from oodguard.cli.main import run
assert run(["predict", "--help"]) == run(["review", "--help"]) == 0
assert run(["predict", sys.argv[0] or "absent.jpg", "--url", "http://127.0.0.1:9"]) == 2
assert run(["serve", "absent"]) in (2, 3)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_direct_dependency_is_pinned() -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for extra in ("train", "serve", "score", "ray", "client", "cli", "load", "bench"):
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name = requirement.split(">")[0].split("=")[0].split("[")[0].lower()
        assert name == "oodguard" or name in pins, name
