"""An environment of its own for each server that oodguard is compared with: their pins contradict each other's."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.harness import console

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
INSTALL_SECONDS = 900


def environment(name: str, *, cache: Path, finish: Callable[[Path], None]) -> Path:
    """The environment of `peers/requirements-NAME.txt` below `cache`, made if it is missing or they have changed.

    The requirements list every package, so nothing is resolved. `finish` is called with a new environment's folder. Of
    several processes that ask at once, one makes it.
    """
    requirements = PEERS / f"requirements-{name}.txt"
    folder = (cache / name).absolute()
    stamp = folder / "installed"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text() == wanted):
            console.print(f"installing {name} into {folder} (once)", style="dim")
            venv.create(folder, with_pip=True, clear=True)
            install(folder, "--requirement", str(requirements))
            finish(folder)
            stamp.write_text(wanted)
    return folder


def install(folder: Path, *what: str) -> None:
    """Install into an environment, without dependencies. Raises `EnvironmentProblem`."""
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    try:
        ran = subprocess.run([*pip, *what], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"{folder.name} was not installed within {INSTALL_SECONDS} s") from None
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
        raise EnvironmentProblem(f"{folder.name} cannot be installed: {' '.join(errors[-2:]) or ran.stderr[-300:]}")


def peer_python(name: str, *, cache: Path) -> Path:
    """The Python of a peer: its own packages, and oodguard for the image path and the manifest alone."""
    folder = environment(name, cache=cache / "peers", finish=lambda new: install(new, "--editable", str(ROOT)))
    return folder / "bin" / "python"
