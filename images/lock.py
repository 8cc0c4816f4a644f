"""The exact packages of an image with the SHA-256 of every file that may be installed.

For `pip install --require-hashes`:

    python images/lock.py serve triton grpc otel store sign > images/gateway.lock

The arguments are extras of pyproject.toml, or requirements with a version. pip resolves them within constraints.txt
from PyPI; the hashes are those that PyPI has of the wheels for Linux and this Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from images.requirements import requirements

ROOT = Path(__file__).parents[1]
INDEX = "https://pypi.org/simple"
# Tags of wheels: Python, ABI, platform.
WHEEL = re.compile(
    r"-(?:cp311-(?:cp311|abi3)|cp3\d+-abi3|(?:py2\.)?py3\d*-none|py3\d*-[a-z0-9_.]+)-"
    r"(?:any|(?:many|musl)?linux[a-z0-9_.]*)\.whl$"
)


def resolve(wanted: list[str]) -> list[tuple[str, str]]:
    """Name and version of every package that pip would install, in the order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        report, listed = Path(folder) / "report.json", Path(folder) / "requirements.txt"
        listed.write_text("\n".join(wanted))
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--isolated", "--dry-run", "--ignore-installed", "--quiet",
             "--index-url", INDEX, "--constraint", str(ROOT / "constraints.txt"), "--requirement", str(listed),
             "--report", str(report)],
            check=True,
        )  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return sorted({(canonical(one["metadata"]["name"]), one["metadata"]["version"]) for one in found})


def canonical(name: str) -> str:
    """A package's name as indexes have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes(package: tuple[str, str]) -> list[str]:
    """SHA-256 of each wheel for Linux of a package's version; of its source where it has none."""
    name, version = package
    request = urllib.request.Request(
        f"{INDEX}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json", "User-Agent": "oodguard-lock"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        files = json.load(answer)["files"]
    begin = re.compile(rf"{name.replace('-', '[-_.]+')}-{re.escape(version)}(?=-|\.tar|\.zip)", re.IGNORECASE)
    own = [one for one in files if begin.match(one["filename"]) and not one.get("yanked")]
    wheels = [one for one in own if WHEEL.search(one["filename"])]
    return sorted({one["hashes"]["sha256"] for one in wheels or own})


def main(arguments: list[str]) -> None:
    """Print the lock of some extras and requirements."""
    extras = [one for one in arguments if "=" not in one]
    packages = resolve([*(requirements(extras) if extras else ()), *(one for one in arguments if "=" in one)])
    print(f"# Made by: python images/lock.py {' '.join(arguments)}")
    with ThreadPoolExecutor(8) as several:
        for (name, version), found in zip(packages, several.map(hashes, packages), strict=True):
            if not found:
                raise SystemExit(f"{INDEX} has no file of {name} {version}")
            print(f"{name}=={version} \\\n" + " \\\n".join(f"    --hash=sha256:{one}" for one in found))


if __name__ == "__main__":
    main(sys.argv[1:])
