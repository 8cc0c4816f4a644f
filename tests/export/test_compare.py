"""`oodguard compare`: two guards on the same photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import Image

from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.evaluation.compared import TEST, TRAFFIC, UNSEEN, Compared
from oodguard.export.bundle import export_bundle
from oodguard.export.compare import compare
from oodguard.export.graph import run_graph, session
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from tests.cli.terminal import call

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weaker(options: TrainOptions, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a guard that was trained with amber and jade mixed up in part, and knows plum."""
    folder = tmp_path_factory.mktemp("weaker")
    shutil.copytree(photos / "train", folder / "data" / "train")
    for index in range(40):
        name = f"{index:03d}.jpg"
        pair = [folder / "data" / "train" / label / name for label in ("amber", "jade")]
        first, second = (path.read_bytes() for path in pair)
        pair[0].write_bytes(second)
        pair[1].write_bytes(first)
    chosen = options.model_copy(
        update={"data": folder / "data", "fine_tune": False, "epochs": 5, "check_folds": 0, "out_of_fold": 0}
    )
    train(chosen, folder / "discs")
    export_bundle(folder / "discs", folder / "bundle", version="8")
    return folder / "bundle"


@pytest.fixture(scope="module")
def seen(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test photos, one file that is no image, and two photos of a class that no guard knows."""
    folder = tmp_path_factory.mktemp("seen")
    shutil.copytree(photos / "test", folder / "test")
    (folder / "test" / "amber" / "junk.jpg").write_bytes(b"junk")
    (folder / "test" / "slate").mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(90, 120, (72, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "test" / "slate" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def found(
    bundle: Path, weaker: Path, seen: Path, strangers: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compared, Path]:
    out = tmp_path_factory.mktemp("comparison") / "page"
    result = compare(
        bundle, weaker, test=seen, ood={"noise": strangers}, traffic=seen / "test" / "plum", cache=cache, out=out
    )
    return result, out


def answers(bundle: Path, images: list[Path]) -> tuple[list[str], np.ndarray]:
    """Labels and flags, by the graph and the manifest alone."""
    manifest = load_manifest(bundle)
    pixels = np.stack([load_pixels(path.read_bytes(), manifest.preprocessing) for path in images])
    outputs = run_graph(session((bundle / manifest.graph).read_bytes()), pixels)
    verdicts = manifest.judge(outputs)
    return [v.label for v in verdicts], np.array([v.is_ood for v in verdicts])


def test_every_share_is_that_of_both_guards(
    found: tuple[Compared, Path], bundle: Path, weaker: Path, seen: Path, strangers: Path
) -> None:
    result, _ = found
    images = sorted(p for label in ("amber", "jade", "plum") for p in (seen / "test" / label).glob("0*.jpg"))
    true = np.array([p.parent.name for p in images])
    (old, old_flags), (new, new_flags) = answers(bundle, images), answers(weaker, images)
    assert result.accuracy is not None
    assert result.acceptance is not None
    assert result.accuracy.before.share == pytest.approx(np.mean(np.array(old) == true))
    assert result.accuracy.after.share == pytest.approx(np.mean(np.array(new) == true))
    assert result.accuracy.change.change < -0.3
    assert result.accuracy.change.significant
    assert (result.acceptance.before.share, result.acceptance.after.share) == pytest.approx(
        (np.mean(~old_flags), np.mean(~new_flags))
    )
    noise = sorted((strangers / "noise").iterdir())
    before, after = (np.mean(~answers(folder, noise)[1]) for folder in (bundle, weaker))
    assert list(result.let_in) == [UNSEEN, "noise"]
    assert (result.let_in["noise"].before.share, result.let_in["noise"].after.share) == pytest.approx((before, after))
    assert result.let_in[UNSEEN].before.of == 2
    assert list(result.changed) == [TEST, UNSEEN, "noise", TRAFFIC]
    assert result.changed[TEST].labels.share == pytest.approx(np.mean(np.array(old) != np.array(new)))
    assert result.changed[TEST].verdicts.share == pytest.approx(np.mean(old_flags != new_flags))
    moved = {Path(photo.path) for photo in result.photos if photo.set == TEST}
    assert moved == {
        p for p, a, b, c, d in zip(images, old, new, old_flags, new_flags, strict=True) if a != b or c != d
    }
    assert [Path(path).name for path in result.unreadable] == ["junk.jpg"]
    assert (result.old.version, result.new.version, result.new.kind) == ("7", "8", "bundle")
    assert result.groups is not None
    assert result.groups < 75


def test_the_verdict_is_one_sentence(found: tuple[Compared, Path]) -> None:
    result, _ = found
    assert result.accuracy is not None
    points = 100 * abs(result.accuracy.change.change)
    assert result.sentence.startswith(f"8 is worse than 7 by {points:.1f} points; accepts ")
    assert "; lets in " in result.sentence
    assert " of noise" in result.sentence
    assert result.sentence.endswith("% of verdicts change")


def test_the_page_shows_the_photos_that_change_and_the_record_has_all_numbers(
    found: tuple[Compared, Path], parse_page: Callable[[str], Element]
) -> None:
    result, out = found
    tree = parse_page((out / "comparison.html").read_text(encoding="utf-8"))
    text = " ".join("".join(tree.itertext()).split())
    assert "discs version 7 and discs version 8" in text
    assert "now wrong" in text
    assert "McNemar" in text
    assert (
        sum(element.tag == "img" for element in tree.iter()) == min(48, len(result.photos)) or len(result.photos) > 48
    )
    assert Compared.model_validate_json((out / "comparison.json").read_text(encoding="utf-8")) == result


def test_a_run_answers_as_its_bundle_and_nothing_changes(
    run: Path, bundle: Path, photos: Path, cache: Path, tmp_path: Path
) -> None:
    result = compare(run, bundle, test=photos, cache=cache, out=tmp_path)
    assert result.photos == ()
    assert result.old.kind == "run"
    assert result.accuracy is not None
    assert (result.accuracy.change.change, result.accuracy.change.p) == (0.0, 1.0)
    # No change in so few photos is no proof that there is none.
    assert result.accuracy.change.low < -0.01 < 0.01 < result.accuracy.change.high
    assert result.sentence.startswith("7 is as accurate as 1; accepts ")
    assert "No photo changes" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_the_command_prints_the_verdict_and_times_graphs(
    capsys: pytest.CaptureFixture[str],
    bundle: Path,
    newer: Path,
    photos: Path,
    strangers: Path,
    cache: Path,
    tmp_path: Path,
) -> None:
    flags = ("--test", photos / "test", "--ood", f"noise={strangers}", "--cache", cache, "--out", tmp_path / "c")
    code, out, _ = call(capsys, "compare", bundle, newer, *flags, "--accept", "0.9", "--rounds", "20")
    assert code == 0
    assert "8 is as accurate as 7; accepts " in out
    assert "of 45 test photos, 0.0 % get another label and 0.0 % another verdict" in out
    assert "old, ms per image" in out
    record = json.loads((tmp_path / "c" / "comparison.json").read_text(encoding="utf-8"))
    assert record["old"]["accept"] == 0.9


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], bundle: Path, run: Path, photos: Path, strangers: Path, tmp_path: Path
) -> None:
    for words, sentence in (
        ((bundle, tmp_path, "--test", photos), "is a folder without images; name a bundle"),
        ((bundle, bundle), "--test is missing"),
        ((bundle, bundle, "--test", tmp_path / "none"), "does not exist"),
        ((bundle, bundle, "--test", strangers), "is named after a class of these guards"),
        ((bundle, bundle, "--test", photos, "--accept", "0.99999"), "accept must be above 0 and at most"),
        ((bundle, bundle, "--test", photos, "--ood", f"traffic={strangers}"), "'traffic' cannot be the name of a set"),
        ((bundle, run, "--rounds", "5"), "is not a bundle, and --rounds times graphs"),
        ((bundle, bundle, "--test", photos, "--threads", "2"), "add --rounds"),
    ):
        code, _, error = call(capsys, "compare", *words, "--out", tmp_path / "c")
        assert (code, sentence in error) == (2, True), error
