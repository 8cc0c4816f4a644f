"""The standalone graph in other runtimes, by the program that compares them; npm's only where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oodguard.export.bundle import export_bundle

FOLDER = Path(__file__).parents[2] / "examples" / "standalone"
INSTALLED = (FOLDER / "node_modules").is_dir()
WAIT = 500


@pytest.fixture(scope="module")
def alone(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "discs"
    export_bundle(run, out, with_standalone=True)
    return out


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / "compare.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_runtimes_of_python_give_the_servers_verdicts(alone: Path, photos: Path, strangers: Path) -> None:
    ran = compare(alone, photos / "test", strangers, "--runtime", "onnxruntime", "--runtime", "openvino")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line, name, taken in zip(
        ran.stdout.splitlines()[2:], ("ONNX", "OpenVINO"), ("taken", "not an input"), strict=True
    ):
        found = cells(line)
        assert found[0].startswith(name)
        assert found[2:5] == ["57 of 57"] * 3
        assert found[6] == taken


def test_the_reference_evaluator_gives_the_servers_verdicts(alone: Path, photos: Path, strangers: Path) -> None:
    ran = compare(alone, photos / "test", strangers, "--runtime", "reference", "--every", "14")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = cells(ran.stdout.splitlines()[2])
    assert (found[2:5], found[6]) == (["5 of 5"] * 3, "taken")


def test_a_bundle_without_one_is_refused(bundle: Path, photos: Path) -> None:
    ran = compare(bundle, photos / "test")
    assert ran.returncode == 1
    assert ran.stderr == f"error: {bundle} has no standalone graph; export it with --standalone\n"


@pytest.mark.skipif(not INSTALLED, reason="npm ci --ignore-scripts in examples/standalone installs these runtimes")
@pytest.mark.parametrize(("runtime", "rows", "taken"), [("node", 1, "ignored"), ("web", 2, "refused")])
def test_runtimes_of_npm_give_the_servers_verdicts(
    alone: Path, photos: Path, strangers: Path, runtime: str, rows: int, taken: str
) -> None:
    ran = compare(alone, photos / "test", strangers, "--runtime", runtime)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()[2:]
    # A machine without an adapter of any kind has no WebGPU.
    assert 1 <= len(lines) <= rows
    for found in map(cells, lines):
        assert (found[2:5], found[6]) == (["57 of 57"] * 3, taken)


@pytest.mark.skipif(not INSTALLED or not shutil.which("node"), reason="needs node and onnxruntime-node")
def test_node_says_what_is_wrong(alone: Path, bundle: Path, tmp_path: Path) -> None:
    (short := tmp_path / "short.rgb").write_bytes(bytes(100))
    for folder, message in ((bundle, "has no standalone graph"), (alone, "does not hold images of 64 x 64 RGB pixels")):
        ran = subprocess.run(
            ["node", FOLDER / "judge.mjs", folder, short], capture_output=True, text=True, check=False, timeout=WAIT
        )
        assert ran.returncode == 1
        assert ran.stderr.startswith("error: ")
        assert message in ran.stderr
