"""Tables of the documents that are made from the code: `python -m oodguard.server.tables docs/*.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from oodguard.core.codes import Code
from oodguard.core.manifest import Manifest
from oodguard.core.scores import SCORES
from oodguard.server.metrics import Metrics
from oodguard.server.settings import ServeSettings
from oodguard.server.settings_rules import ENV_PREFIX

Rows = Iterator[tuple[object, ...]]


def settings() -> Rows:
    """Every setting of `oodguard serve`."""
    yield "flag", "environment", "default", "what it does"
    for name, field in ServeSettings.model_fields.items():
        shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
        default = "" if shown in (None, ()) else f"`{shown}`"
        yield f"`--{name.replace('_', '-')}`", f"`{ENV_PREFIX}{name.upper()}`", default, field.description


def metrics() -> Rows:
    """Every metric, in the order in which they are exported."""
    yield "metric", "type", "labels", "what it is"
    counted = Metrics()
    for family in counted.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = _names(counted.labels.get(family.name, ()))
        yield f"`{family.name}{suffix}`", family.type, labels, family.documentation


def problems() -> Rows:
    """Every problem code, by status."""
    yield "status", "code", "title"
    for code in sorted(Code, key=lambda code: (code.status, code)):
        yield code.status, f"`{code}`", code.phrase


def scores() -> Rows:
    """Every OOD score, in graph order."""
    yield "score", "family", "title", "what it measures"
    for spec in SCORES:
        yield f"`{spec.name}`", spec.family, spec.title, spec.meaning


def manifest() -> Rows:
    """Every field of a bundle's manifest, with the fields of the records inside it."""
    yield "field", "what it is", "fields of each"
    for name, field in Manifest.model_fields.items():
        yield f"`{name}`", field.description, _names(_record(field.annotation))


def _record(annotation: Any) -> Iterable[str]:
    """The fields of the record that a field holds, alone or in a list."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_fields
    return ()


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


TABLES = {"settings": settings, "metrics": metrics, "problems": problems, "scores": scores, "manifest": manifest}


def table(name: str) -> str:
    """One of `TABLES` as Markdown."""
    head, *rows = TABLES[name]()
    return "\n".join(
        [
            f"| {' | '.join(map(str, head))} |",
            "|---" * len(head) + "|",
            *(f"| {' | '.join(map(str, r))} |" for r in rows),
        ]
    )


def filled(text: str) -> str:
    """A document with what stands between `<!-- name -->` and `<!-- /name -->` made anew."""
    for name in TABLES:
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}{table(name)}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
