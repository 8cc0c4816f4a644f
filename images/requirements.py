"""The requirements of some of the project's extras, one a line: `python images/requirements.py serve`.

`images/lock.py` resolves them to the exact packages that an image installs.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
OWN = re.compile(r"^oodguard\[(?P<extras>[^]]+)\]$")


def requirements(extras: list[str], project: Path = PROJECT) -> list[str]:
    """What `pip install "oodguard[extras]"` would install beside oodguard itself."""
    document = tomllib.loads(project.read_text(encoding="utf-8"))["project"]

    def walk(entries: list[str]) -> Iterator[str]:
        for entry in entries:
            own = OWN.match(entry)
            if own is None:
                yield entry
            else:
                for extra in own["extras"].split(","):
                    yield from walk(document["optional-dependencies"][extra])

    return list(dict.fromkeys(walk([*document["dependencies"], f"oodguard[{','.join(extras)}]"])))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
