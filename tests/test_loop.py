"""The whole loop, once: serve, flag, mark, apply, add a class, retrain, compare, promote, roll back."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import httpx
import pytest

from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import wait_until
from tests.cli.terminal import call
from tests.conftest import draw

SLATE = (61, 107, 153)
SENT, FRESH = 30, 8


def ask(gateway: Gateway, path: Path) -> tuple[str, str, bool]:
    """Version, label and flag of a photo."""
    with path.open("rb") as image:
        answer = httpx.post(f"{gateway.url}/predict", files={"image": image}, timeout=30).raise_for_status().json()
    (prediction,) = answer["predictions"]
    return answer["model"]["version"], prediction["label"], prediction["is_ood"]


def reload(gateway: Gateway) -> None:
    httpx.post(f"{gateway.private}/admin/reload", timeout=30).raise_for_status()


def test_what_was_flagged_is_learned_served_and_taken_back(
    run: Path,
    bundle: Path,
    photos: Path,
    strangers: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    data, flagged = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "flagged"
    shutil.copytree(bundle, tmp_path / "bundles" / "discs-7")
    slates = tmp_path / "slates"
    slates.mkdir()
    for index in range(SENT + FRESH):
        draw(SLATE, 9_000 + index).save(slates / f"{index:02d}.jpg", quality=90)
    sent = sorted(slates.iterdir())[:SENT]
    fresh = sorted(slates.iterdir())[SENT:]
    noise = sorted((strangers / "noise").iterdir())[:4]

    def do(*words: object) -> str:
        code, out, err = call(capsys, *words)
        assert code == 0, err
        return out

    do("releases", "bundles", "promote", "discs-7")
    with Gateway(Path("bundles/current"), "--sample-dir", str(flagged), "--sample-rate", "1") as gateway:
        # Served, and flagged.
        met = [path for path in sent if ask(gateway, path)[2]]
        assert len(met) >= 15
        assert all(ask(gateway, path)[2] for path in noise)
        assert ask(gateway, data / "test" / "jade" / "000.jpg") == ("7", "jade", False)
        wait_until(lambda: len(list(flagged.rglob("*.json"))) == len(met) + 4, seconds=20)

        # Marked: a person says what the pictures are.
        kinds = {path.read_bytes(): ("new class", "slate") for path in met}
        kinds |= {path.read_bytes(): ("stranger", "") for path in noise}
        with (flagged / "marks.csv").open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(("path", "sha256", "mark", "class", "at", "group"))
            for path in sorted(flagged.rglob("*")):
                if path.suffix in (".jpg", ".png"):
                    rows.writerow((path.relative_to(flagged).as_posix(), "", *kinds[path.read_bytes()], "", ""))

        # Applied: copies in the class folders of the photos.
        do("review", "flagged", "--apply", "flagged/marks.csv", "--into", "photos")
        assert len(list((data / "train" / "slate").iterdir())) == len(met)
        assert len(list((tmp_path / "photos-strangers").rglob("*.png"))) == 4

        # At once: the class without training.
        told = do(
            "add-class", "bundles/discs-7", "slate", "photos/train/slate", "--out", "bundles/discs-8",
            "--data", "photos", "--json",
        )  # fmt: skip
        record = json.loads(told)
        assert (record["version"], record["class"]["photos"], record["class"]["name"]) == ("8", len(met), "slate")
        assert record["flagged_before"]["share"] == 1.0
        assert record["passing"]["share"] >= 0.6
        assert record["accuracy"]["change"]["change"] >= -0.05
        do("releases", "bundles", "promote", "discs-8")
        reload(gateway)
        answers = [ask(gateway, path) for path in fresh]
        assert {version for version, _, _ in answers} == {"8"}
        assert sum(label == "slate" and not flag for _, label, flag in answers) >= 5
        assert all(ask(gateway, path)[2] for path in noise)

        # Retrained, with everything that was learned.
        do(
            "train", "--data", "photos", "--out", "runs/discs-2", "--parent", run, "--cache", cache,
            "--outliers", "photos-strangers", "--image-size", 72, "--views", 2, "--fine-tune-epochs", 4, "--epochs", 20,
            "--hidden", 32, "--calibration-fraction", 0.33, "--check-folds", 0, "--out-of-fold", 0,
        )  # fmt: skip
        do("export", "runs/discs-2", "--out", "bundles/discs-9")
        assert load_manifest(Path("bundles/discs-9")).version == "9"

        # Compared, on photos that trained neither.
        out = do("compare", "bundles/discs-8", "bundles/discs-9", "--test", "photos/test", "--out", "comparison",
                 "--cache", cache)  # fmt: skip
        assert "accuracy" in out
        found = json.loads((tmp_path / "comparison" / "comparison.json").read_text(encoding="utf-8"))
        assert found["accuracy"]["after"]["share"] >= 0.9

        # Promoted.
        do("releases", "bundles", "promote", "discs-9")
        reload(gateway)
        assert [ask(gateway, path)[:2] for path in fresh].count(("9", "slate")) >= 5

        # And rolled back, step by step.
        for version, knows in (("8", True), ("7", False)):
            do("releases", "bundles", "rollback")
            reload(gateway)
            answers = [ask(gateway, path) for path in fresh]
            assert {one for one, _, _ in answers} == {version}
            assert (sum(label == "slate" for _, label, _ in answers) >= 5) is knows
        assert gateway.count("oodguard_reloads", "result") == {("swapped",): 4}
    actions = [
        json.loads(line)["action"] for line in (tmp_path / "bundles" / "releases.jsonl").read_text().splitlines()
    ]
    assert actions == ["promote", "promote", "promote", "rollback", "rollback"]
    assert (Path("bundles/current").resolve() / MANIFEST_FILE).read_bytes() == (bundle / MANIFEST_FILE).read_bytes()
