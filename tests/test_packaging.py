"""What is installed: all modules, one version everywhere, and for each extra no more than it needs."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packages import ROOT, build, tracked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ROOMS = sorted(path.name for path in (ROOT / "oodguard").iterdir() if path.is_symlink() and path.name != "load_tests")


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "sdist")


def packaged() -> set[str]:
    """Every file of the package, where the wheel has it."""
    links = {f"oodguard/{name}" for name in tracked() if name.split("/")[0] in ROOMS}
    assert len(links) > 200
    return {*links, "oodguard/__init__.py", "oodguard/py.typed"}


def test_the_wheel_holds_every_file_of_every_room_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("oodguard-")}
    assert names == packaged()


def test_the_wheel_holds_the_licence(wheel: Path) -> None:
    assert {Path(name).name for name in zipfile.ZipFile(wheel).namelist()} >= {"LICENSE", "NOTICE"}


def test_the_sdist_holds_files_in_place_of_links_and_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert packaged() <= set(members)
    assert all(members[name].isfile() for name in packaged())
    assert not [name for name in members if name.split("/")[0] in (*ROOMS, "tests", "load_tests")]
    assert not [name for name in members if name.startswith("oodguard/load_tests")]


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_checkout(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(next(tmp_path.iterdir()), tmp_path / "out", "wheel")

    def contents(path: Path) -> dict[str, int]:
        entries = zipfile.ZipFile(path).infolist()
        return {entry.filename: entry.CRC for entry in entries if not entry.filename.endswith("/RECORD")}

    assert contents(again) == contents(wheel)


def test_package_chart_and_images_have_one_version(wheel: Path) -> None:
    version = PROJECT["version"]
    chart = yaml.safe_load((ROOT / "helm" / "oodguard" / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert wheel.name.startswith(f"oodguard-{version}-")
    assert importlib.metadata.version("oodguard") == version, "the installed version is old; run make setup"
    dockerfile = (ROOT / "images" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG VERSION=(.*)$", dockerfile, re.MULTILINE) == [version]
    for path in (ROOT / name for name in tracked() if name.endswith((".md", "Dockerfile"))):
        for tag in re.findall(r"oodguard/(?:gateway|gateway-gpu|trainer):([\w.]+)", path.read_text(encoding="utf-8")):
            assert tag == version, f"{path} names the image {tag}"


def test_the_command_tells_the_version() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "oodguard.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == importlib.metadata.version("oodguard")


def test_a_clone_without_symbolic_links_says_so(tmp_path: Path) -> None:
    (tmp_path / "oodguard").mkdir()
    shutil.copy(ROOT / "oodguard" / "__init__.py", tmp_path / "oodguard")
    # What git writes for a link where `core.symlinks` is false.
    (tmp_path / "oodguard" / "core").write_text("../core")
    for module in ("oodguard", "oodguard.core.manifest"):
        ran = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 1
        assert "git checkout -- oodguard" in ran.stderr.splitlines()[-1]


def declared() -> dict[str, list[Requirement]]:
    """Every requirement of the project, for itself and in its extras, by canonical name."""
    entries = [*PROJECT["dependencies"], *(entry for extra in EXTRAS.values() for entry in extra)]
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, entries):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    del found["oodguard"]
    return found


def test_every_direct_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for name, requirements in declared().items():
        for requirement in requirements:
            # It stands in for onnxruntime, which is what make setup installs.
            if name != "onnxruntime-gpu":
                assert requirement.specifier.contains(pins[name]), requirement


def test_every_package_that_a_room_imports_is_declared() -> None:
    providers = importlib.metadata.packages_distributions()
    # pydantic pins it exactly; Triton has it inside.
    known = {*sys.stdlib_module_names, "oodguard", "pydantic_core", "triton_python_backend_utils"}
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in {name.split(".")[0] for name in names} - known:
                found = {canonicalize_name(one) for one in providers[name]}
                assert found & declared().keys(), f"{path} imports {name}; pyproject.toml does not name it"


def test_messages_tell_to_install_extras_that_exist() -> None:
    told = []
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for before, extras in re.findall(r"(.)oodguard\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            # Without quotes zsh takes the brackets for a pattern.
            assert before == "'", f"{path} names {extras} without quotes"
            told += extras.split(",")
    assert len(told) > 5
    assert set(told) <= EXTRAS.keys()


HEAVY = {
    "torch", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "fastapi", "uvicorn", "matplotlib", "ray",
}  # fmt: skip


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


def test_serving_brings_no_training_library() -> None:
    brought = installed_with("oodguard", "serve")
    assert {"fastapi", "starlette", "onnxruntime", "uvicorn"} <= brought
    assert not brought & {"torch", "timm", "onnx", "scikit-learn", "scipy", "matplotlib"}
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
