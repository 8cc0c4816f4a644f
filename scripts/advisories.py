"""Known advisories against the exact packages of the images: `python scripts/advisories.py images/*.lock`.

Asks OSV (https://osv.dev) about every `name==version`. Exit code 0: none is known; 1: the table names them; 3: the
source cannot be reached, and nothing was checked.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

SOURCE = "https://api.osv.dev/v1/querybatch"
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def pins(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Name and version of every pin, once."""
    return sorted({(name.lower(), version) for text in texts for name, version in PIN.findall(text)})


def advisories(packages: list[tuple[str, str]], source: str = SOURCE) -> dict[tuple[str, str], list[str]]:
    """The identifiers of the advisories against each package that has any. Raises `OSError` where nobody answers."""
    queries = [{"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in packages]
    request = urllib.request.Request(
        source, data=json.dumps({"queries": queries}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        results = json.load(answer)["results"]
    found = {
        package: [one["id"] for one in result.get("vulns", ())]
        for package, result in zip(packages, results, strict=True)
    }
    return {package: sorted(names) for package, names in found.items() if names}


def main(arguments: list[str]) -> int:
    """Print what is known; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files of pins: constraints.txt, images/*.lock")
    parser.add_argument("--source", default=SOURCE, help="where to ask, by the protocol of OSV's querybatch")
    asked = parser.parse_args(arguments)
    packages = pins(path.read_text(encoding="utf-8") for path in asked.files)
    try:
        found = advisories(packages, asked.source)
    except (OSError, ValueError, KeyError) as error:
        print(f"not checked: {asked.source} gave no answer ({error})", file=sys.stderr)
        return 3
    for (name, version), names in found.items():
        print(f"{name} {version}: {', '.join(names)}")
    print(f"{len(packages)} packages, {len(found)} with advisories")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
