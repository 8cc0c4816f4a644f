"""The images as far as they can be judged without building them; images/build_and_ask.sh builds, runs and asks one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import requirements, sbom, slim

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "images" / "Dockerfile"


def test_hadolint_finds_nothing() -> None:
    ran = subprocess.run([Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_scripts_are_shell() -> None:
    for script in (ROOT / "images").glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)


def test_the_last_stages_run_as_a_user_of_their_own_and_hold_no_installer() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    named = {re.match(r"\S+ AS (\S+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    assert list(named)[-1] == "gateway", "the default target"
    for target in ("gateway", "gateway-gpu", "trainer"):
        assert "USER 10001:10001" in named[target]
        assert "pip" not in named[target]
    assert "HEALTHCHECK" in named["serving"]
    assert named["gateway"].startswith("serving AS")
    assert "ORT_DISABLE_TELEMETRY=1" in named["serving"]


def test_the_build_context_gives_the_whole_package(tmp_path: Path) -> None:
    context = tmp_path / "context"
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    dockerfile = DOCKERFILE.read_text()
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE):
        for argument in copied.split():
            default = re.fullmatch(r"\$\{(\w+)\}", argument)
            path = re.search(rf"^ARG {default[1]}=(\S+)$", dockerfile, re.MULTILINE)[1] if default else argument  # type: ignore[index]
            assert path.split("/")[0] in let_in, path
            target = context / path
            if (ROOT / path).is_dir():
                shutil.copytree(ROOT / path, target, symlinks=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, context]
    subprocess.run(command, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    rooms = [path for path in (ROOT / "oodguard").iterdir() if path.is_symlink() and path.name != "load_tests"]
    expected = {f"oodguard/{module.relative_to(ROOT)}" for room in rooms for module in room.resolve().rglob("*.py")}
    assert modules == {"oodguard/__init__.py", *expected}


def test_the_gateways_requirements_are_those_of_its_extra() -> None:
    found = requirements.requirements(["serve", "triton"])
    assert any(entry.startswith("onnxruntime>=") for entry in found)
    assert any(entry.startswith("cyclopts") for entry in found)
    assert not any(re.match(r"(torch|oodguard|timm)\b", entry) for entry in found)
    assert any(entry.startswith("torch==") for entry in requirements.requirements(["train"]))
    with pytest.raises(KeyError):
        requirements.requirements(["absent"])


LOCKS = sorted((ROOT / "images").glob("*.lock"))


def locked(path: Path) -> dict[str, str]:
    """Version by package; every entry of the lock has hashes, and nothing else is in it."""
    header, *entries = re.split(r"\n(?=[a-z0-9])", path.read_text().rstrip("\n"))
    assert header.startswith("# Made by: python images/lock.py ")
    found = {}
    for entry in entries:
        match = re.fullmatch(r"([a-z0-9.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", entry)
        assert match, entry[:80]
        found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_the_versions_of_the_constraints_and_the_whole_closure(path: Path) -> None:
    found = locked(path)
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert {name: pinned[name] for name in found if name in pinned} == {n: v for n, v in found.items() if n in pinned}
    # CUDA's libraries are in no environment that tests run in.
    foreign = {name for name in found if name not in pinned}
    assert all(re.match(r"(nvidia|cuda)-|triton$|onnxruntime-gpu$|setuptools$", name) for name in foreign), foreign
    arguments = path.read_text().splitlines()[0].split("lock.py ")[1].split()
    extras = [one for one in arguments if "=" not in one]
    wanted = requirements.requirements(extras) if extras else []
    waiting = [Requirement(one) for one in (*wanted, *(one for one in arguments if "=" in one and "gpu" not in one))]
    seen = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        marker = one.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
            continue
        if (name, frozenset(one.extras)) in seen or name == "onnxruntime-gpu" or name in foreign:
            continue
        seen.add((name, frozenset(one.extras)))
        assert name in found, f"{name} is missing; make {path.name} anew"
        for text in requires(name) or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *one.extras)):
                inner.marker = None
                waiting.append(inner)


def test_the_gpu_gateway_has_the_runtime_of_the_gateway() -> None:
    gpu, usual = locked(ROOT / "images" / "gateway-gpu.lock"), locked(ROOT / "images" / "gateway.lock")
    assert gpu["onnxruntime-gpu"] == usual["onnxruntime"]


def test_images_install_nothing_without_its_hash() -> None:
    for line in re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines():
        for part in re.split(r"&&", line):
            if re.search(r"pip\b.* install ", part):
                assert "--require-hashes" in part or "--no-index" in part, part


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    out = tmp_path / "sbom" / "sbom.cdx.json"
    sbom.main([str(out)])
    bill = json.loads(out.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    python = {c["name"]: c for c in bill["components"] if c["purl"].startswith("pkg:pypi/")}
    assert {name: c["version"] for name, c in python.items()} == {d.name: d.version for d in distributions()}
    assert python["numpy"]["purl"] == f"pkg:pypi/numpy@{python['numpy']['version']}"
    assert python["pydantic_core"]["purl"].startswith("pkg:pypi/pydantic-core@")
    assert python["pydantic_core"]["licenses"] == [{"license": {"name": "MIT"}}]
    references = [c["bom-ref"] for c in bill["components"]]
    assert len(references) == len(set(references))
    table = sbom.licence_table(bill)
    assert f"| numpy | {python['numpy']['version']} | BSD-3-Clause" in table


def test_debian_packages_and_their_licences_are_read(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2.13\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    copyright_file = tmp_path / "doc" / "zlib1g" / "copyright"
    copyright_file.parent.mkdir(parents=True)
    copyright_file.write_text(
        "Format: x\nFiles: *\nLicense: Zlib\n\nLicense: GPL-2 or later\nLicense: Permission is hereby\n"
    )
    (found,) = sbom.debian_components(status, tmp_path / "doc")
    assert found["purl"] == "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64"
    assert found["licenses"][0]["license"]["name"] == "GPL-2 or later, Zlib"
    copyright_file.write_text("see /usr/share/common-licenses/GPL-2.\n")
    assert sbom.debian_licence(copyright_file) == "GPL-2"
    assert sbom.debian_licence(tmp_path / "absent") == "not declared"


def test_slimming_removes_tests_and_converters_alone(tmp_path: Path) -> None:
    for path in ("numpy/core.py", "numpy/tests/test_core.py", "onnxruntime/capi/x.so", "onnxruntime/tools/big.bin"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 10)
    assert slim.slim(tmp_path) == 20
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == [
        "numpy/core.py",
        "onnxruntime/capi/x.so",
    ]
