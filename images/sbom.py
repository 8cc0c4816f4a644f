"""The bill of materials of the image this runs in, as CycloneDX 1.6: Python packages and the base's Debian packages.

`python images/sbom.py OUT.json` writes it; `python images/sbom.py --licences SBOM.json` prints it as a table. Only the
standard library is used, because it runs in the environment that it describes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

DPKG = Path("/var/lib/dpkg/status")
DOCS = Path("/usr/share/doc")
CLASSIFIER = "License :: OSI Approved :: "
SHORT = re.compile(r"^[\w.+/-]+( (or|and|with) [\w.+/ -]+)?\s*$")
UNKNOWN = "not declared"

Component = dict[str, Any]


def python_components() -> Iterator[Component]:
    """Every distribution of this interpreter, once: the first on its path is the one that is imported."""
    first_found = {found.name: found for found in reversed(list(distributions()))}
    for found in sorted(first_found.values(), key=lambda d: d.name.lower()):
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', found.name).lower()}@{found.version}"
        yield _component(found.name, found.version, purl, python_licence(found))


def python_licence(found: Distribution) -> str:
    """What a distribution says of its licence: an SPDX expression, else classifiers, else a short licence field."""
    meta = found.metadata
    expression = first(meta.get_all("License-Expression"))
    classifiers = [
        value.removeprefix(CLASSIFIER) for value in meta.get_all("Classifier") or () if value.startswith(CLASSIFIER)
    ]
    field = first(meta.get_all("License")).strip()
    return expression or " AND ".join(classifiers) or (field if 0 < len(field) < 80 and "\n" not in field else UNKNOWN)


def first(values: list[str] | None) -> str:
    """The first value of a metadata field, or nothing."""
    return values[0] if values else ""


def debian_components(status: Path = DPKG, docs: Path = DOCS) -> Iterator[Component]:
    """Every installed Debian package, with the licences its copyright file names."""
    if not status.is_file():
        return
    for block in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if "installed" not in fields.get("Status", "").split():
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{name}@{version}?arch={fields.get('Architecture', 'all')}"
        yield _component(name, version, purl, debian_licence(docs / name / "copyright"))


def debian_licence(copyright_file: Path) -> str:
    """The short names in a machine-readable copyright file."""
    try:
        text = copyright_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    # Some files put the licence's text where its short name belongs.
    names = sorted(
        {name.strip() for name in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE) if SHORT.match(name)}
    )
    if names:
        return ", ".join(names)
    named = sorted(set(re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", text)))
    return ", ".join(named) or "see the copyright file"


def _component(name: str, version: str, purl: str, licence: str) -> Component:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"license": {"name": licence}}],
    }


def bill() -> dict[str, Any]:
    """The whole document."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": "oodguard"}},
        "components": [*python_components(), *debian_components()],
    }


def licence_table(document: dict[str, Any]) -> str:
    """The components and their licences as a Markdown table, Python first."""
    rows = ["| package | version | licence |", "|---|---|---|"]
    for part in document["components"]:
        rows.append(f"| {part['name']} | {part['version']} | {part['licenses'][0]['license']['name']} |")
    return "\n".join(rows)


def main(arguments: list[str]) -> None:
    """Write the bill, or print one as a table."""
    if arguments[0] == "--licences":
        print(licence_table(json.loads(Path(arguments[1]).read_text(encoding="utf-8"))))
        return
    out = Path(arguments[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
