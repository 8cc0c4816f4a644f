"""`oodguard drift` and what `oodguard score` says of drift and of strangers by a false discovery rate."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodguard.cli.main import run as command
from oodguard.core.manifest import load_manifest
from oodguard.server.offline.drift_report import drift
from oodguard.server.offline.judged import read_judged
from tests.cli.terminal import call


@pytest.fixture(scope="module")
def known(bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the test photos, in folders by day."""
    folder = tmp_path_factory.mktemp("known")
    for label in ("amber", "jade", "plum"):
        shutil.copytree(photos / "test" / label, folder / "2026-11-28" / label)
    shutil.copytree(photos / "test" / "jade", folder / "2026-12-03" / "jade")
    out = folder / "r.parquet"
    assert command(["score", str(bundle), str(folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def strange(bundle: Path, photos: Path, strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of which most are strangers, and one file is no image."""
    folder = tmp_path_factory.mktemp("strange")
    rng = np.random.default_rng(3)
    (folder / "more").mkdir()
    for index in range(45):
        Image.fromarray(rng.integers(0, 256, (72, 72, 3), dtype=np.uint8)).save(folder / "more" / f"{index}.png")
    shutil.copytree(photos / "test" / "jade", folder / "jade")
    shutil.copytree(strangers / "noise", folder / "noise")
    (folder / "junk.jpg").write_bytes(b"junk")
    return folder


def test_images_like_the_calibration_photos_are_no_drift(
    capsys: pytest.CaptureFixture[str], bundle: Path, known: Path
) -> None:
    code, out, _ = call(capsys, "drift", known, "--bundle", bundle, "--fail-on-drift")
    rows = pq.read_table(known).to_pylist()
    flagged = sum(row["is_ood"] for row in rows)
    assert code == 0
    assert "discs version 7: 60 images" in out
    assert f"{100 * flagged / 60:.1f} % flagged" in out
    assert "5.0 % expected" in out
    assert "the images are like the calibration photos" in out
    assert "2026-W48" in out
    assert "2026-W49" in out
    found = drift([known], bundle=bundle)
    assert {name: part.flagged.images for name, part in found.by_week.items()} == {"2026-W48": 45, "2026-W49": 15}
    assert sum(part.flagged.images for part in found.by_class.values()) == 60
    assert found.whole.accuracy is not None
    passed = [row["probability"] for row in rows if not row["is_ood"]]
    assert found.whole.accuracy.accuracy == pytest.approx(np.mean(passed))
    assert found.whole.accuracy.low <= np.mean([row["label"] in row["path"] for row in rows]) <= 1


def test_strangers_are_said_in_a_sentence_by_score_and_by_drift(
    capsys: pytest.CaptureFixture[str], bundle: Path, strange: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    code, said, _ = call(capsys, "score", bundle, strange, "--out", out)
    assert code == 1
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    flagged = sum(row["is_ood"] == "true" for row in rows)
    share = f"{100 * flagged / 72:.1f} % flagged"
    assert flagged >= 57
    assert share in said
    assert "5.0 % expected" in said
    assert "the images are not like the calibration photos" in said
    assert "of the labels of those that pass are right" in said
    code, printed, _ = call(capsys, "drift", out, "--bundle", bundle, "--fail-on-drift")
    assert code == 1
    assert "72 images, 1 more could not be used" in printed
    assert share in printed
    assert "percentiles are not uniform" in printed
    assert "nothing says when the images were taken" in printed
    assert command(["drift", str(out), "--bundle", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["whole"]["flagged"]["flagged"] == flagged
    assert found["failed"] == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_kind_of_result_reads_alike(suffix: str, bundle: Path, strange: Path, tmp_path: Path) -> None:
    for name in ("a.parquet", f"b.{suffix}"):
        assert command(["score", str(bundle), str(strange), "--out", str(tmp_path / name)]) == 1
    first, second = (drift([tmp_path / name], bundle=bundle) for name in ("a.parquet", f"b.{suffix}"))
    assert first.model_dump_json(exclude={"whole", "by_class"}) == second.model_dump_json(exclude={"whole", "by_class"})
    assert first.whole.flagged == second.whole.flagged
    assert first.whole.accuracy is not None
    assert second.whole.accuracy is not None
    assert first.whole.accuracy.accuracy == pytest.approx(second.whole.accuracy.accuracy, abs=1e-6)
    together = drift([tmp_path / "a.parquet", tmp_path / f"b.{suffix}"], bundle=bundle)
    assert together.images == 144


def rewritten(source: Path, out: Path, **columns: Any) -> Path:
    table = pq.read_table(source)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, out)
    return out


@pytest.mark.parametrize(
    "times",
    [["2026-11-28T10:00:00"] * 30 + ["2026-12-03"] * 30, [1795860000] * 30 + [1796292000] * 30],
    ids=["text", "seconds"],
)
def test_a_column_says_when(times: list[Any], bundle: Path, known: Path, tmp_path: Path) -> None:
    out = rewritten(known, tmp_path / "r.parquet", taken=times)
    assert list(drift([out], bundle=bundle, times="taken").by_week) == ["2026-W48", "2026-W49"]


def test_dates_in_paths_are_dates(bundle: Path, known: Path, tmp_path: Path) -> None:
    table = pq.read_table(known).slice(0, 8)
    paths = ["a/20261128-1.jpg", "2026/11/28/a.jpg", "x2026-11-28.jpg", "20261128123.jpg", "20261399.jpg",
             "1202611281.jpg", "2026-02-30.jpg", "IMG_20261128_101500.jpg"]  # fmt: skip
    table = table.set_column(0, "path", pa.array(paths))
    pq.write_table(table, tmp_path / "r.parquet")
    found = read_judged(tmp_path / "r.parquet")
    assert found.weeks.tolist() == ["2026-W48"] * 3 + [""] * 4 + ["2026-W48"]


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], bundle: Path, newer: Path, known: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "r.csv.meta.json").write_text("[]")
    shutil.copyfile(tmp_path / "notes.csv", tmp_path / "r.csv")
    other = rewritten(known, tmp_path / "other.parquet", taken=["soon"] * 60)
    for words, sentence in (
        ((tmp_path / "none.parquet",), "does not exist"),
        ((tmp_path / "notes.csv",), "there is no column path"),
        ((tmp_path / "broken.parquet",), "cannot be read as a result"),
        ((tmp_path / "r.csv",), "is not an object"),
        ((tmp_path,), "name a file that oodguard score or oodguard predict --csv wrote"),
        ((known, "--times", "taken"), "there is no column taken"),
        ((other, "--times", "taken"), "Invalid isoformat string: 'soon'"),
        ((known, "--calibration", "cam9"), "unknown source 'cam9'"),
    ):
        code, _, error = call(capsys, "drift", *words, "--bundle", bundle)
        assert (code, sentence in error) == (2, True), error
    code, _, error = call(capsys, "drift", known, "--bundle", newer)
    assert code == 2
    assert "was made with discs version 7, and" in error


def test_strangers_by_a_false_discovery_rate_are_those_of_the_p_values(
    capsys: pytest.CaptureFixture[str], bundle: Path, strange: Path, tmp_path: Path
) -> None:
    plain, tested, text = tmp_path / "plain.parquet", tmp_path / "tested.parquet", tmp_path / "tested.csv"
    call(capsys, "score", bundle, strange, "--out", plain)
    code, said, _ = call(capsys, "score", bundle, strange, "--out", tested, "--fdr", "0.1")
    assert code == 1
    call(capsys, "score", bundle, strange, "--out", text, "--fdr", "0.1", "--part-size", "5")
    table = pq.read_table(tested)
    assert pq.read_table(plain).equals(table.drop_columns(["p_value", "stranger_at_fdr"]).replace_schema_metadata(
        pq.read_table(plain).schema.metadata))  # fmt: skip
    assert table.schema.metadata[b"oodguard.fdr"] == b"0.1"
    rows = table.to_pylist()
    curve = load_manifest(bundle).calibration.curve
    judged = [row for row in rows if row["label"] is not None]
    expected = [float(curve.p_value(row["ood_score"])) for row in judged]
    assert [row["p_value"] for row in judged] == expected
    ordered = sorted(expected)
    cut = max((p for k, p in enumerate(ordered, 1) if p <= 0.1 * k / 72), default=0.0)
    named = [row["stranger_at_fdr"] for row in judged]
    assert named == [p <= cut for p in expected]
    assert sum(named) >= 57
    assert f"{sum(named)} strangers at a false discovery rate of 0.1 (p-value at most {cut:.4g})" in said
    failed = next(row for row in rows if row["label"] is None)
    assert (failed["p_value"], failed["stranger_at_fdr"]) == (None, None)
    with text.open(newline="") as stream:
        assert [row["stranger_at_fdr"] for row in csv.DictReader(stream)] == [
            "" if row["stranger_at_fdr"] is None else str(row["stranger_at_fdr"]).lower() for row in rows
        ]


def test_too_few_calibration_photos_name_nobody_and_say_so(
    capsys: pytest.CaptureFixture[str], bundle: Path, known: Path, tmp_path: Path
) -> None:
    code, said, _ = call(capsys, "score", bundle, known.parent, "--out", tmp_path / "r.csv", "--fdr", "0.001")
    samples = load_manifest(bundle).calibration.curve.samples
    least = 1 / (samples + 1)
    assert code == 0
    assert "no image can be named a stranger at a false discovery rate of 0.001" in said
    assert f"of so many, {int(np.ceil(least * 60 / 0.001 - 1e-9)):,} must have the least p-value" in said
    code, _, error = call(capsys, "score", bundle, known.parent, "--out", tmp_path / "x.csv", "--fdr", "1")
    assert (code, "--fdr" in error) == (2, True)
