"""The wheel in an environment of its own: a client without PyTorch, ONNX Runtime or a server beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oodguard.load_tests.gateway import Gateway
from tests.packages import ROOT, clone

WAIT = 60
# What a client must not bring, by the names that are imported.
ABSENT = (
    *("torch", "torchvision", "timm", "sklearn", "scipy", "onnx", "onnxruntime", "openvino", "matplotlib"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic_settings", "tritonclient", "pyarrow"),
)


def clean() -> dict[str, str]:
    """The environment of somebody who has nothing of ours set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OODGUARD_"))}


@dataclass(frozen=True)
class Place:
    """A virtual environment; nothing of this one is seen from it."""

    folder: Path

    def call(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, in its folder."""
        program, *arguments = map(str, command)
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=self.folder,
            env={**clean(), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT,
        )

    def install(self, *wanted: str) -> None:
        """What `pip install` with these arguments does."""
        ran = pip("--python", str(self.folder / "bin" / "python"), "install", "--no-compile", *wanted)
        assert ran.returncode == 0, ran.stderr

    def installed(self) -> set[str]:
        ran = self.call("python", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))")
        return {name.lower() for name in ran.stdout.split()}


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Isolated: what an editable install left in this folder must not count as installed there.
    command = [sys.executable, "-I", "-m", "pip", *arguments, "--disable-pip-version-check", "--quiet"]
    return subprocess.run(command, env=clean(), capture_output=True, text=True, check=False, timeout=4 * WAIT)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package index that pip is set up to ask."""
    folder = tmp_path_factory.mktemp("index")
    smallest = ("download", "--no-deps", "--retries", "0", "--timeout", "5", "--dest", str(folder), "mdurl==0.1.2")
    if pip(*smallest).returncode:
        pytest.skip("no package index is reachable; the wheel of the client was not installed")


@pytest.fixture(scope="module")
def place(index: None, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel, installed as the README says, with the dependencies that the constraints pin."""
    folder = tmp_path_factory.mktemp("client")
    venv.create(folder, with_pip=False)
    found = Place(folder)
    found.install("--constraint", str(ROOT / "constraints.txt"), f"{wheel}[client]")
    return found


@pytest.fixture(scope="module")
def gateway(bundle: Path) -> Iterator[Gateway]:
    with Gateway(bundle) as running:
        yield running


@pytest.mark.slow
def test_a_client_alone_asks_a_server(place: Place, gateway: Gateway, photos: Path, strangers: Path) -> None:
    known, unknown = sorted((photos / "test" / "jade").iterdir())[0], sorted(strangers.rglob("*.png"))[0]
    program = f"""
import asyncio, sys
from importlib.util import find_spec
print(*(name for name in {ABSENT!r} if find_spec(name)), sep=",")
from oodguard.clients import AsyncClient, Client
url, *images = sys.argv[1:]
with Client(url) as client:
    print(*(one.is_ood for one in client.predict(images).predictions))
async def ask():
    async with AsyncClient(url) as client:
        return [result.prediction.is_ood async for result in client.stream(images)]
print(*asyncio.run(ask()))
"""
    ran = place.call("python", "-W", "error", "-c", program, gateway.url, known, unknown)
    brought, together, streamed = ran.stdout.splitlines() if ran.returncode == 0 else (ran.stderr, "", "")
    assert (brought, together, streamed) == ("", "False True", "False True")

    shown = place.call("oodguard", "--help")
    assert shown.returncode == 0
    assert re.search(r"\bpredict\b", shown.stdout)
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert place.call("oodguard", "--version").stdout.strip() == version[1]

    asked = place.call("oodguard", "predict", known, unknown, "--url", gateway.url, "--json")
    assert asked.returncode == 0, asked.stderr
    assert [json.loads(line)["is_ood"] for line in asked.stdout.splitlines()] == [False, True]


@pytest.mark.slow
def test_an_extra_is_added_as_messages_say(place: Place) -> None:
    bundle, photos = place.folder / "bundle", place.folder / "photos"
    bundle.mkdir()
    photos.mkdir()
    (bundle / "manifest.json").write_text("{}")
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff")
    refused = place.call("oodguard", "score", str(bundle), str(photos), "--out", "results.csv")
    assert refused.returncode == 3, refused.stderr
    advice = re.search(r"pip install '(oodguard\[\w+\])'$", refused.stderr.strip())
    assert advice, refused.stderr
    # With the smallest extra; for pip all of them are alike: oodguard itself is there, and comes from no index.
    assert "backports.zstd" not in place.installed()
    place.install("--constraint", str(ROOT / "constraints.txt"), advice[1].replace("[score]", "[zstd]"))
    assert "backports.zstd" in place.installed()


@pytest.mark.slow
def test_the_command_without_its_packages_says_what_installs_them(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    bare = Place(tmp_path)
    bare.install("--no-deps", "--no-index", str(wheel))
    ran = bare.call("oodguard", "--help")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == "error: the command needs the package cyclopts; pip install 'oodguard[cli]'\n"


def test_a_git_address_gives_the_wheel_of_a_clone(wheel: Path, tmp_path: Path) -> None:
    tree = clone(tmp_path / "repository")
    settings = ("-c", "user.name=Reader", "-c", "user.email=reader@example.org")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All of it"]):
        subprocess.run(["git", *settings, *command], cwd=tree, check=True, capture_output=True)
    # pip wants the name of a host in a requirement with an address.
    address = f"oodguard[client] @ git+{tree.as_uri().replace('file:///', 'file://localhost/')}"
    ran = pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(tmp_path / "out"), address)
    assert ran.returncode == 0, ran.stderr
    built = next((tmp_path / "out").glob("*.whl"))
    assert sorted(zipfile.ZipFile(built).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
