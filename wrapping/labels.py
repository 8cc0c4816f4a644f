"""Names of classes that exporters leave in an ONNX file's metadata."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

# Ultralytics; Paddle's OCR family; Hugging Face; others.
KEYS = ("names", "character", "id2label", "labels", "classes", "class_names", "config")
_MAX_BYTES = 1 << 20


def class_names(metadata: Mapping[str, str], classes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names in the order of the outputs, empty where there are none for all classes, and what to say of that."""
    for key in KEYS:
        if key not in metadata or len(metadata[key]) > _MAX_BYTES:
            continue
        names = _read(metadata[key])
        if not names:
            continue
        if len(names) == classes and len(set(names)) == classes:
            return names, ()
        if key != "config":
            return (), (
                f"the metadata name {len(set(names))} classes ({key!r}) and the output has {classes}: not used",
            )
    return (), ()


def _read(text: str) -> tuple[str, ...]:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return _ordered(value)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [one.strip() for one in text.split(",") if one.strip()]
    return tuple(lines)


def _ordered(value: Any) -> tuple[str, ...]:
    """Names in order, of a list or of a dictionary by number (or, as label2id, by name)."""
    if isinstance(value, dict) and isinstance(value.get("id2label"), dict):
        value = value["id2label"]
    if isinstance(value, dict):
        if all(isinstance(one, int) for one in value.values()):
            value = {number: name for name, number in value.items()}
        try:
            numbered = {int(number): str(name) for number, name in value.items()}
        except (TypeError, ValueError):
            return ()
        value = [numbered[index] for index in sorted(numbered)] if set(numbered) == set(range(len(numbered))) else []
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
