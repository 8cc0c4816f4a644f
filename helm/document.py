"""Keep what can be derived in step: the README's table of values, and the schema of the server's settings.

`python helm/document.py` rewrites both files; `make docs` runs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from oodguard.server.settings import ServeSettings

CHART = Path(__file__).parent / "oodguard"
BEGIN, END = "<!-- values -->", "<!-- /values -->"
DESCRIPTION = "# -- "

# What `--set` hands over for a number with a point: text. A share is at most 1.
NUMBER = r"^[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$"
SHARE = r"^(0*\.[0-9]+|[01](\.0*)?)$"

# What the chart itself says, and where in its values.
GIVEN = {
    "bundle": "bundle",
    "samples": "no value: nobody reads a pod's curl lines",
    "host": "listenAddress",
    "port": "ports.http",
    "admin_host": "listenAddress",
    "admin_port": "ports.admin",
    "grpc_port": "ports.grpc",
    "tls_cert": "tls",
    "tls_key": "tls",
    "tls_ca": "tls",
    "auth": "keys",
    "key_file": "keys",
    "key_hashes": "keys",
    "triton_url": "triton",
    "shadow": "shadow.bundle",
    "shadow_share": "shadow.share",
    "sample_webhook": "sampleWebhook.url",
    "sample_webhook_secret": "sampleWebhook.secret",
}


def settings_schema() -> dict[str, Any]:
    """JSON Schema of `settings`: every server setting that the chart does not give itself."""
    found = ServeSettings.model_json_schema()
    properties = {
        name: settable({key: value for key, value in entry.items() if key not in ("title", "default", "format")})
        for name, entry in found["properties"].items()
        if name not in GIVEN
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def settable(entry: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that `helm --set` can give: a number may also be its text."""
    kinds = entry.get("anyOf", [entry])
    number = next((kind for kind in kinds if kind.get("type") == "number"), None)
    if number is None:
        return entry
    share = number.get("maximum", number.get("exclusiveMaximum", 2)) <= 1
    bounds = {key: value for key, value in number.items() if key != "description"}
    others = [kind for kind in kinds if kind is not number]
    text = {"type": "string", "pattern": SHARE if share else NUMBER}
    return {"anyOf": [bounds, text, *others], "description": entry["description"]}


def write_schema(chart: Path) -> str:
    """The chart's schema with its part about settings made anew."""
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2) + "\n"


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and description of every described value, in order."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, str, str]]:
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
            if above.startswith(DESCRIPTION):
                yield name, default(value), above.removeprefix(DESCRIPTION)
            elif isinstance(value, yaml.MappingNode):
                yield from walk(value, name)
            else:
                raise ValueError(f"{name} has no description in values.yaml")

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def default(node: yaml.Node) -> str:
    """A default as it is written in a table."""
    found = yaml.safe_load(yaml.serialize(node))
    return "" if found in ("", None) else f"`{json.dumps(found)}`"


def values_table(chart: Path) -> str:
    """Every value as a Markdown table."""
    rows = ["| value | default | what it does |", "|---|---|---|"]
    for name, shown, description in values((chart / "values.yaml").read_text(encoding="utf-8")):
        rows.append(f"| `{name}` | {shown} | {description} |")
    return "\n".join(rows)


def write_readme(chart: Path) -> str:
    """The chart's README with its table made anew."""
    readme = (chart / "README.md").read_text(encoding="utf-8")
    table = f"{BEGIN}\n{values_table(chart)}\n{END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: table, readme, flags=re.DOTALL)


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(write_schema(CHART), encoding="utf-8")
    (CHART / "README.md").write_text(write_readme(CHART), encoding="utf-8")
