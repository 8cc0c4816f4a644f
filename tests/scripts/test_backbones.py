from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.training.photos.labelled import load_photos
from scripts import backbones

SERVED = {
    "family": "resnet",
    "member": "resnet10t",
    "weights": 4_922_488,
    "side": 176,
    "width": 512,
    "cut": "layer3",
    "recorded": False,
    "frozen_because": None,
    "seconds": {"train": 19.0, "export": 26.6, "score": 1.6},
    "parity": 8.3e-7,
    "parity_score": "mahalanobis",
    "parity_allowed": 1e-4,
    "batch_error": 4e-7,
    "measured": False,
    "versions": {"timm": "1.0.31", "torch": "2.13.0", "onnxruntime": "1.31.1"},
}


def test_the_drawn_photos_are_a_set_of_two_classes_that_is_always_the_same(tmp_path: Path) -> None:
    first = backbones.draw_photos(tmp_path / "a")
    backbones.draw_photos(tmp_path / "b")
    photos = load_photos(tmp_path / "a", tmp_path)
    assert photos.classes == ("amber", "plum")
    assert (len(photos.pool), len(photos.test)) == (48, 10)
    again = tmp_path / "b" / first.relative_to(tmp_path / "a")
    np.testing.assert_array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))


def test_the_table_has_a_row_for_each_family_and_names_the_missing(tmp_path: Path) -> None:
    lines = {
        "resnet": SERVED,
        "vgg": {**SERVED, "family": "vgg", "cut": None, "frozen_because": "nobody knows", "measured": True},
        "xcit": {"family": "xcit", "member": "xcit_nano", "side": 224, "failed": "not done after 1 minutes"},
    }
    page = tmp_path / "page.md"
    page.write_text(f"before\n{backbones.MARK}\nold\n{backbones.MARK}\nafter\n")
    for _ in range(2):
        backbones.write_page(page, lines, ["resnet", "vgg", "xcit", "yolo"])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "2 of 3 families train, export and serve (67%), and 1 of them fine-tune" in text
    assert "1 of timm's 4 families were not run: yolo." in text
    assert "| `resnet` | `resnet10t` | 176 | `layer3` | traced | 19 + 27 + 2 | mahalanobis 8e-07 |" in text
    assert "| `vgg` | `resnet10t` * | 176 |  | frozen: nobody knows |" in text
    assert "| `xcit` | `xcit_nano` | 224 | | no: not done after 1 minutes | | |" in text


def test_finished_families_are_not_run_again_and_failed_ones_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines.jsonl"
    failed = {"family": "vgg", "failed": "for now"}
    file.write_text("\n".join(json.dumps(line) for line in (SERVED, failed)) + "\n")
    asked: list[list[str]] = []
    monkeypatch.setattr(backbones, "run_families", lambda families, *_, **__: asked.append(list(families)))
    for more in ([], ["--again"]):
        backbones.main(["--lines", str(file), "--page", str(tmp_path / "none.md"), "--only", "resnet,vgg,xcit", *more])
    assert asked == [["xcit"], ["vgg", "xcit"]]


def test_a_family_that_runs_too_long_or_ends_is_a_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    backbones.run_families(["no_such_family"], file, minutes=5)
    backbones.run_families(["vgg"], file, minutes=0.001)
    lines = backbones.read_lines(file)
    assert lines["no_such_family"]["traceback"]
    assert lines["vgg"]["failed"] == "not done after 0.001 minutes"
