"""An environment of its own for each peer: their pins contradict each other's and ours."""

from __future__ import annotations

import hashlib
import subprocess
import venv
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.harness import console

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
INSTALL_SECONDS = 900


def environment(name: str, *, cache: Path) -> Path:
    """The Python of peer `name`'s environment under `cache`, made if it is missing or its requirements changed.

    Requirements list every package, so nothing is resolved. Ours is installed without dependencies, for the image
    path and the manifest alone.
    """
    requirements = PEERS / f"requirements-{name}.txt"
    folder = (cache / "peers" / name).absolute()
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = hashlib.sha256(requirements.read_bytes() + str(HERE).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    console.print(f"installing {name} into {folder} (once)", style="dim")
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    for what in (["--requirement", str(requirements)], ["--editable", str(HERE.parent)]):
        try:
            ran = subprocess.run([*pip, *what], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(f"{name} was not installed within {INSTALL_SECONDS} s") from None
        if ran.returncode:
            errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
            raise EnvironmentProblem(f"{name} cannot be installed: {' '.join(errors[-2:]) or ran.stderr[-300:]}")
    stamp.write_text(wanted)
    return python
