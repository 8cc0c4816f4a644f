"""What `oodguard.load` refuses, each in one sentence."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import oodguard
from oodguard.core.errors import FormatError, InputError, QualityError
from oodguard.core.manifest import MANIFEST_FILE


def test_what_is_no_bundle_is_one_sentence(bundle: Path, run: Path, tmp_path: Path) -> None:
    for folder, sentence in (
        (tmp_path / "absent", "absent is not a bundle: there is no such folder"),
        (bundle / MANIFEST_FILE, "there is no such folder"),
        (tmp_path, "is not a bundle: it has no manifest.json"),
        (run, "oodguard export makes a bundle of a run"),
    ):
        with pytest.raises(FormatError, match=sentence) as caught:
            oodguard.load(folder)
        assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    with pytest.raises(FormatError, match="SHA-256 does not match"):
        oodguard.load(folder)


def test_a_bundle_that_answers_its_golden_images_otherwise_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    raw["golden"][0]["scores"][0] += 1.0
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))
    with pytest.raises(QualityError, match=r"does not answer as it was exported \(scores of"):
        oodguard.load(folder)
    with pytest.raises(QualityError):
        asyncio.run(_aload(folder))
    assert not any(thread.name == "oodguard" for thread in threading.enumerate())


async def _aload(folder: Path) -> None:
    async with oodguard.aload(folder):
        pass


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sessions": 0}, "sessions: .* greater than or equal to 1; got 0"),
        ({"max_batch": -1}, "max_batch: .*; got -1"),
        ({"decode_workers": 0}, "decode_workers: .*; got 0"),
        ({"engine": "abacus"}, "engine: .*; got 'abacus'"),
        ({"device": "tpu"}, "device: .*; got 'tpu'"),
    ],
)
def test_options_out_of_range_are_one_sentence(bundle: Path, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        oodguard.load(bundle, **given)
    with pytest.raises(TypeError, match="unexpected keyword"):
        oodguard.load(bundle, sesions=1)  # type: ignore[call-arg]
