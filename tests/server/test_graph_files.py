"""An engine loads the bytes that were verified, and they read no other file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest

from oodguard.core.errors import FormatError
from oodguard.core.graph_file import read_graph
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.server.engines.ort import OrtEngine


def test_a_bundle_whose_graph_reads_other_files_is_refused(bundle: Path, tmp_path: Path) -> None:
    """The hashes fit: the file with the weights is the one that nobody checks."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    onnx.save_model(
        onnx.load(folder / "model.onnx"), folder / "model.onnx", save_as_external_data=True, location="weights.bin"
    )
    rewrite(folder)
    manifest = load_manifest(folder)
    with pytest.raises(FormatError, match="keeps weights in other files"):
        OrtEngine(folder, manifest)


def test_a_graph_that_changes_after_the_manifest_was_read_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = load_manifest(folder)
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(FormatError, match="changed after export"):
        read_graph(folder, manifest)


def rewrite(folder: Path) -> None:
    """Make the manifest fit the graph as it is now."""
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    data = (folder / "model.onnx").read_bytes()
    for ref in raw["files"]:
        if ref["path"] == "model.onnx":
            ref.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))
