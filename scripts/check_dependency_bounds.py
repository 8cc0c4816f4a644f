"""Test the oldest and the newest version that pyproject.toml allows of every direct dependency.

    make bounds

uv resolves the project's `dev` extra twice, with the lowest and the highest version of each direct dependency, installs
each resolution into an environment of its own and runs tests in it. The table shows both versions of every direct
dependency; the exit code is 1 where tests failed. The first run downloads several gigabytes. Every UV_ variable is
passed on: UV_TORCH_BACKEND=cpu or UV_FIND_LINKS=FOLDER choose a smaller build of torch.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
TESTS = ("tests/core", "tests/clients", "tests/server", "tests/cli", "tests/export")


def direct_dependencies(project: Path) -> dict[str, Requirement]:
    """Every other package that `project` requires, for itself or in an extra, by canonical name."""
    document = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    entries = [
        *document["dependencies"],
        *(one for extra in document["optional-dependencies"].values() for one in extra),
    ]
    found: dict[str, Requirement] = {canonicalize_name(one.name): one for one in map(Requirement, entries)}
    del found[canonicalize_name(document["name"])]
    return found


def resolved_versions(requirements: str) -> dict[str, str]:
    """The versions in the text of a requirements file, by canonical name."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", requirements, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def find_uv(work: Path) -> Path:
    """uv of this machine, or one installed below `work`."""
    if found := shutil.which("uv"):
        return Path(found)
    uv = work / "uv" / "bin" / "uv"
    if not uv.is_file():
        venv.create(work / "uv", with_pip=True, clear=True)
        subprocess.run([uv.with_name("python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return uv


def prepare(uv: Path, work: Path, name: str) -> Path:
    """Install one resolution into an environment below `work`; the requirements file that says what is in it."""
    folder, requirements = work / name, work / f"{name}.txt"

    def run(*command: str | Path) -> None:
        subprocess.run([uv, *command], check=True, cwd=ROOT)

    resolution = ("--python-version", "3.11", "--resolution", RESOLUTIONS[name], "--no-annotate")
    run("pip", "compile", "--quiet", *resolution, "--extra", "dev", "--output-file", requirements, "pyproject.toml")
    run("venv", "--quiet", "--clear", "--python", sys.executable, folder)
    install = ("pip", "install", "--quiet", "--python", folder / "bin" / "python")
    run(*install, "--requirement", requirements)
    run(*install, "--no-deps", "--editable", ".")
    return requirements


def main() -> int:
    """Prepare both environments, run the tests in each and print the table."""
    parser = argparse.ArgumentParser(description="Test the oldest and the newest allowed version of every dependency.")
    parser.add_argument("tests", nargs="*", default=TESTS, help=f"what pytest runs (default: {' '.join(TESTS)})")
    parser.add_argument("--work", type=Path, default=ROOT / ".oodguard-cache" / "bounds", help="folder to work in")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    uv = find_uv(work)
    versions: dict[str, dict[str, str]] = {}
    results: dict[str, str] = {}
    for name in RESOLUTIONS:
        versions[name] = resolved_versions(prepare(uv, work, name).read_text(encoding="utf-8"))
        ran = subprocess.run([work / name / "bin" / "pytest", "-n", "2", "-q", *options.tests], cwd=ROOT, check=False)
        results[name] = "passed" if ran.returncode == 0 else f"failed (pytest ended with {ran.returncode})"
    table = Table(title="Direct dependencies", title_justify="left")
    for heading in ("package", "allowed", *RESOLUTIONS):
        table.add_column(heading, overflow="fold")
    for name, requirement in sorted(direct_dependencies(ROOT / "pyproject.toml").items()):
        row = (versions[resolution].get(name, "not tested") for resolution in RESOLUTIONS)
        table.add_row(name, str(requirement.specifier), *row)
    table.add_section()
    table.add_row("tests", "", *results.values())
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
