"""A comparison on a small photo set: real training, real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import safetensors.numpy

from oodguard.bench.methods import catalogue
from oodguard.bench.methods.anchored import AnchoredMethod
from oodguard.bench.results.records import Mean, Results
from oodguard.bench.results.table import rows, to_markdown
from oodguard.bench.suites import folders
from oodguard.bench.suites.catalogue import SUITES
from oodguard.bench.suites.corruptions import SEVERITIES, Corrupted, corruptions
from oodguard.cli.main import run as oodguard

METHODS = "greg,deep-ensemble,amp,fused"


def load_results(folder: Path) -> Results:
    return Results.model_validate_json((folder / "results.json").read_bytes())


@pytest.fixture(scope="module")
def arguments(photos: Path, strangers: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("bench") / "out"
    return [
        "bench", str(photos), "--ood", f"noise={strangers}", "--outliers", str(strangers), "--cache", str(cache),
        "--out", str(out), "--methods", METHODS, "--quick",
        "--image-size", "64",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(arguments: list[str]) -> Path:
    assert oodguard(arguments) == 0
    return Path(arguments[arguments.index("--out") + 1])


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    return load_results(out)


def test_quick_is_one_seed(results: Results) -> None:
    assert (results.quick, results.seeds) == (True, (0,))


def test_every_method_is_measured_on_every_set_with_every_score(results: Results) -> None:
    # `single` was not asked for: others start from it.
    assert [t.method for t in results.trials] == ["single", "greg", "deep-ensemble", "amp", "fused"]
    assert all(t.accuracy is not None and t.accuracy > 0.8 for t in results.trials)
    assert {r.ood for r in results.records} == {"noise", *(c.name for c in corruptions((1, 5)))}
    for trial in results.trials:
        mine = [r for r in results.records if r.method == trial.method]
        assert len(mine) == len({(r.ood, r.score) for r in mine})
        assert all(0 <= value <= 1 for r in mine for value in (r.auroc, r.fpr95, r.aupr_in, r.aupr_out, r.flagged))
        assert all((r.shifted_accuracy is None) == (r.kind != "covariate") for r in mine)
    fused = next(r for r in results.records if r.method == "fused" and r.score == "fused" and r.ood == "noise")
    assert fused.auroc > 0.8
    norms = {t.method: t.diagnostics["gradient_norm"] for t in results.trials if "gradient_norm" in t.diagnostics}
    assert norms.keys() == {"single", "greg"}


def test_an_interrupted_comparison_goes_on_where_it_stopped(arguments: list[str], out: Path, results: Results) -> None:
    kept = sorted((out / "trials").rglob("*.json"))
    assert len(kept) == 5
    lost = next(path for path in kept if path.stem == "amp")
    lost.unlink()
    damaged = next(path for path in kept if path.stem == "greg")
    damaged.write_text("{}")
    stamps = {path: path.stat().st_mtime_ns for path in kept if path not in (lost, damaged)}
    assert oodguard(arguments) == 0
    assert lost.is_file()
    assert damaged.stat().st_size > 2
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    again = load_results(out)
    assert [r.model_dump() for r in again.records] == [r.model_dump() for r in results.records]


def test_the_report_is_one_page_that_loads_nothing(out: Path, parse_page: Callable[[str], Element]) -> None:
    text = (out / "report.html").read_text()
    parse_page(text)
    assert "deep-ensemble" in text
    assert "fused" in (out / "results.md").read_text()


def test_results_are_plain_json(out: Path) -> None:
    raw = json.loads((out / "results.json").read_text())
    assert {"arena", "method", "seed", "ood", "score", "auroc", "fpr95", "aupr_in", "aupr_out", "accuracy"} <= set(
        raw["records"][0]
    )
    assert raw["command"].startswith("oodguard ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "neither a suite"),
        (["produce", "--ood", "a=b"], "--ood a: b does not exist"),
        (["produce", "--data", "nowhere"], "does not exist"),
        (["produce", "--methods", "magic"], "there is no method 'magic'"),
        (["produce", "--seeds", "0"], "--seeds must be at least 1"),
        (["produce", "--network", "wrn-10-1"], "--network belongs to the suite cifar10"),
        (["cifar10", "--network", "vgg"], "there is no network 'vgg'; networks: wrn-DEPTH-WIDEN, resnet18"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodguard(["bench", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_list_names_suites_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert oodguard(["bench", "--list"]) == 0
    text = capsys.readouterr().out
    for name in (*SUITES, *catalogue.METHODS):
        assert f" {name} " in text


def test_corruptions_grow_with_severity_and_are_seeded_by_identity() -> None:
    y, x = np.mgrid[:64, :64]
    image = np.stack([2 * x, 2 * y, x + y], axis=-1).astype(np.uint8)
    image[16:48, 16:48] = 200
    for kind in SEVERITIES:
        changes = [np.abs(Corrupted(kind, s)(image, "a").astype(float) - image).mean() for s in (1, 3, 5)]
        assert 0 < changes[0] < changes[1] < changes[2], kind
        assert np.array_equal(Corrupted(kind, 3)(image, "a"), Corrupted(kind, 3)(image, "a"))
    assert not np.array_equal(Corrupted("noise", 3)(image, "a"), Corrupted("noise", 3)(image, "b"))


def test_mean_and_deviation_by_hand() -> None:
    found = Mean.of([0.8, 0.9, 1.0])
    assert (found.mean, found.deviation, found.count) == (pytest.approx(0.9), pytest.approx(0.1), 3)
    assert found.percent() == "90.0 ± 10.0"
    assert Mean.of([0.5]).percent() == "50.0"


def test_the_table_merges_severities_and_keeps_a_methods_own_scores(results: Results) -> None:
    table = rows(results, "all classes")
    assert [(r.method, r.score) for r in table if r.method in ("greg", "deep-ensemble", "fused")] == [
        ("greg", "energy"),
        ("deep-ensemble", "pds"),
        ("deep-ensemble", "one_minus_bma"),
        ("fused", "fused"),
    ]
    noise = [r for r in results.records if r.method == "greg" and r.score == "energy" and r.ood.startswith("noise ")]
    merged = next(r for r in table if r.method == "greg").auroc["noise (1-5)"]
    assert merged.mean == pytest.approx(sum(r.auroc for r in noise) / len(noise))
    assert "| greg | energy |" in to_markdown(results)


def test_what_starts_from_a_method_that_diverged_is_skipped(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "SCRATCH", replace(folders.SCRATCH, lr=1e30))
    arguments = list(arguments)
    arguments[arguments.index("--out") + 1] = str(tmp_path)
    arguments[arguments.index("--methods") + 1] = "greg"
    assert oodguard(arguments) == 0
    assert "greg is skipped: single, which it starts from, has not finished" in " ".join(
        capsys.readouterr().err.split()
    )
    found = load_results(tmp_path)
    assert [(t.method, t.failed is not None) for t in found.trials] == [("single", True)]
    assert not found.records


def test_a_method_is_trained_again_when_the_one_it_starts_from_is_another(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = list(arguments)
    arguments[arguments.index("--out") + 1] = str(tmp_path)
    arguments[arguments.index("--methods") + 1] = "amp,amp-2"
    assert oodguard(arguments) == 0
    kept = {path.stem: path.read_bytes() for path in (tmp_path / "trials").rglob("*.json")}
    monkeypatch.setitem(catalogue.METHODS, "amp", AnchoredMethod("amp", "other", consistent=False))
    assert oodguard(arguments) == 0
    again = {path.stem: path.read_bytes() for path in (tmp_path / "trials").rglob("*.json")}
    assert kept.keys() == again.keys() == {"amp", "amp-2"}
    assert all(kept[name] != again[name] for name in kept)


def test_other_anchors_need_no_other_training(tmp_path: Path, arguments: list[str]) -> None:
    arguments = list(arguments)
    arguments[arguments.index("--out") + 1] = str(tmp_path)
    arguments[arguments.index("--methods") + 1] = "amp-20"
    assert oodguard(arguments) == 0
    few, many = (
        safetensors.numpy.load_file(path)
        for path in (
            tmp_path / "trials/all-classes-0/amp.safetensors",
            tmp_path / "trials/all-classes-0/amp-20.safetensors",
        )
    )
    assert (len(few.pop("anchors")), len(many.pop("anchors"))) == (5, 20)
    assert few.keys() == many.keys()
    for name in few:
        np.testing.assert_array_equal(few[name], many[name])


def test_heads_of_another_width_are_other_trials(arguments: list[str], tmp_path: Path) -> None:
    arguments = [*arguments, "--hidden", "16"]
    arguments[arguments.index("--out") + 1] = str(tmp_path)
    arguments[arguments.index("--methods") + 1] = "single"
    trial = tmp_path / "trials/all-classes-0/single.safetensors"
    widths = []
    for width in ("16", "24"):
        arguments[-1] = width
        assert oodguard(arguments) == 0
        widths.append(safetensors.numpy.load_file(trial)["network.head.weight"].shape[1])
    assert widths == [16, 24]
    assert f"--hidden {width}" in load_results(tmp_path).command
