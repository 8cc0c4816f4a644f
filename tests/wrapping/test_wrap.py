"""A guard around a classifier that was there before: its answers stay, and everything downstream takes the run."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import oodguard
from oodguard.core.classifier import CLASSIFIER_FILE
from oodguard.core.errors import FormatError, InputError
from oodguard.core.fusion import WRAPPED_SHARE
from oodguard.core.preprocessing import load_pixels
from oodguard.core.scores import WRAPPED, Family, ScoreName
from oodguard.evaluation.diagnosis import diagnose_run
from oodguard.evaluation.evaluate import evaluate
from oodguard.export.bundle import export_bundle
from oodguard.training.record import RunRecord, load_record
from oodguard.training.run import load_run
from oodguard.wrapping.around import wrap_path
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.photos import find_photos
from oodguard.wrapping.stated import PreprocessingOptions
from tests.wrapping.conftest import CLASSES, PREPROCESSING, SIDE, Trained, entered, exported, learnt

SAID = PreprocessingOptions(
    fit="crop",
    resize=SIDE,
    crop=SIDE,
    interpolation="bicubic",
    channels="rgb",
    scale=255.0,
    mean=PREPROCESSING.mean,
    std=PREPROCESSING.std,
)


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing."""

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def quick(data: Path, cache: Path, **more: object) -> WrapOptions:
    """Options that train in seconds."""
    return WrapOptions(
        data=data, cache=cache, epochs=8, hidden=16, views=1, threads=1, calibration_fraction=0.3, **more
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def run_folder(
    shop: Path, trained: Trained, cache: Path, notes: Notes, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The shop's classifier with a guard around it."""
    out = tmp_path_factory.mktemp("wrapped") / "run"
    wrap_path(trained.file, quick(shop, cache), out, said=SAID, report=notes)
    return out


def test_the_classifiers_answers_stay_and_its_own_scores_join(
    run_folder: Path, shop: Path, trained: Trained, notes: Notes
) -> None:
    run = load_run(run_folder)
    record = run.record
    assert record.classes == CLASSES
    found = record.classifier
    assert found is not None
    assert (found.input, found.output, found.activation, found.width) == ("pixels", "scores", "none", 24)
    assert not found.seen
    assert found.uncovered == ()
    assert "feature" in notes.text
    files = sorted((shop / "test").rglob("*.jpg"))
    pixels = np.stack([load_pixels(path.read_bytes(), record.preprocessing) for path in files])
    probabilities, scores = run.predict(pixels)
    with torch.no_grad():
        logits = trained.net(entered(files))
    np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), atol=1e-6)
    names = record.heads.scores
    expected = {
        ScoreName.CLASSIFIER_ENERGY: -logits.logsumexp(1),
        ScoreName.CLASSIFIER_ENTROPY: torch.special.entr(logits.softmax(1)).sum(1),
        ScoreName.CLASSIFIER_ONE_MINUS_MSP: 1 - logits.softmax(1).amax(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(scores[:, names.index(name)], values.numpy(), rtol=1e-5, atol=1e-5)
    assert {spec.name for spec in WRAPPED} <= set(record.calibration.fusion.scores)
    assert ScoreName.KNN not in record.calibration.fusion.scores
    assert record.calibration.fusion.share(Family.CONFIDENCE) == WRAPPED_SHARE
    # Photos of val/ calibrate; those of train/ train.
    assert record.splits.calibration == 90
    assert record.splits.train == 180
    assert set(run.division.calibration) == set(CLASSES)
    assert record.calibration.answering is not None
    assert record.calibration.chances(probabilities) == pytest.approx(probabilities)


def test_evaluate_diagnose_export_and_predict_take_it_as_they_are(
    run_folder: Path, strangers: Path, shop: Path, trained: Trained, tmp_path: Path
) -> None:
    found = evaluate(run_folder, ood={"noise": strangers}, out=tmp_path / "report")
    with torch.no_grad():
        files = sorted((shop / "test").rglob("*.jpg"))
        right = trained.net(entered(files)).argmax(1) == torch.tensor([CLASSES.index(p.parent.name) for p in files])
    assert found.accuracy.share == pytest.approx(right.float().mean().item())
    assert found.ood["noise"].scores["fused"].auroc > 0.9
    assert diagnose_run(run_folder).verdict
    manifest = export_bundle(run_folder, tmp_path / "bundle")
    assert manifest.classifier is not None
    assert manifest.classifier.sha256 == load_record(run_folder).classifier.sha256  # type: ignore[union-attr]
    with oodguard.load(tmp_path / "bundle") as guard:
        known, strange = guard.predict([files[0], next(strangers.rglob("*.png"))]).predictions
    with torch.no_grad():
        own = trained.net(entered(files[:1])).softmax(1).amax().item()
    assert known.probability == pytest.approx(own, abs=1e-6)
    assert strange.is_ood
    with pytest.raises(InputError, match="trained elsewhere"):
        evaluate(run_folder, ood={}, leave_out=1, out=tmp_path / "report")


def test_another_network_in_its_place_is_refused(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    (copy / CLASSIFIER_FILE).write_bytes((copy / CLASSIFIER_FILE).read_bytes() + b"\0")
    with pytest.raises(FormatError, match="SHA-256 does not match"):
        load_run(copy)
    (copy / CLASSIFIER_FILE).unlink()
    with pytest.raises(FormatError, match=r"has no classifier\.onnx"):
        load_run(copy)


def test_photos_it_was_trained_on_give_thresholds_from_views_and_no_decisions(
    shop: Path, trained: Trained, cache: Path, tmp_path: Path
) -> None:
    notes = Notes()
    record = wrap_path(trained.file, quick(shop / "train", cache), tmp_path / "run", said=SAID, report=notes)
    assert record.classifier is not None
    assert record.classifier.seen
    assert "--unseen" in notes.text
    assert record.calibration.answering is None
    plain = wrap_path(
        trained.file, quick(shop / "train", cache, all_unseen=True), tmp_path / "plain", said=SAID, report=notes
    )
    assert plain.classifier is not None
    assert not plain.classifier.seen
    assert plain.calibration.answering is not None
    # Views of known photos lie farther out than the photos themselves.
    energy = ScoreName.CLASSIFIER_ENERGY
    assert record.calibration.curves[energy].threshold(0.9) > plain.calibration.curves[energy].threshold(0.9)


def test_a_folder_of_new_photos_calibrates(shop: Path, trained: Trained, cache: Path, tmp_path: Path) -> None:
    record = wrap_path(
        trained.file, quick(shop / "train", cache, unseen=shop / "val"), tmp_path / "run", said=SAID, report=Notes()
    )
    assert record.classifier is not None
    assert record.classifier.unseen == str(shop / "val")
    assert not record.classifier.seen
    # No test folder: a fifth of the new photos tests.
    assert record.splits.calibration + record.splits.test == 90
    assert record.splits.test >= 12
    assert evaluate(tmp_path / "run", ood={}, out=tmp_path / "report").accuracy.share > 0.5


def test_photos_to_calibrate_with_that_also_trained_are_named_and_left_out(
    shop: Path, trained: Trained, cache: Path, tmp_path: Path
) -> None:
    notes = Notes()
    data = tmp_path / "data"
    shutil.copytree(shop, data)
    first = next((data / "train").rglob("*.jpg"))
    shutil.copyfile(first, data / "val" / first.parent.name / "again.jpg")
    photos = find_photos(quick(data, cache), notes)
    assert len(photos.held) == 90
    assert notes.lines == ["1 of 91 photos of val/ are training photos too: left out there"]
    for label in CLASSES:
        for path in sorted((data / "val" / label).glob("*.jpg"))[4:]:
            path.unlink()
    with pytest.raises(
        InputError, match="12 photos are too few to calibrate thresholds, and 20 are needed; add 8 to val/ or --unseen"
    ):
        wrap_path(trained.file, quick(data, cache), tmp_path / "run", said=SAID, report=notes)


def test_photos_and_the_place_to_write_are_looked_at_before_the_classifier(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    absent = tmp_path / "absent.onnx"
    with pytest.raises(InputError, match="is not a run folder"):
        wrap_path(absent, quick(tmp_path, tmp_path), out)
    with pytest.raises(InputError, match="photos does not exist"):
        wrap_path(absent, quick(tmp_path / "photos", tmp_path), tmp_path / "run")


def test_unlabelled_photos_take_its_own_answers(shop: Path, trained: Trained, cache: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((shop / "train").rglob("*.jpg"))):
        shutil.copyfile(path, flat / f"{number}.jpg")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    notes = Notes()
    options = quick(flat, cache, labels="model", classes=names, all_unseen=True)
    record = wrap_path(trained.file, options, tmp_path / "run", said=SAID, report=notes)
    assert record.classes == CLASSES
    assert record.classifier is not None
    assert record.classifier.labels == "model"
    assert record.calibration.answering is None
    assert "nothing says how often it is right" in notes.text
    assert evaluate(tmp_path / "run", ood={}, out=tmp_path / "report").accuracy.share == 1.0
    with pytest.raises(InputError, match="without labels nothing says which"):
        wrap_path(trained.file, options, tmp_path / "other", said=PreprocessingOptions(), report=Notes())
    assert not (tmp_path / "other").exists()


def test_classes_without_photos_stay_the_classifiers(shop: Path, cache: Path, tmp_path: Path) -> None:
    net = learnt(shop / "train", classes=5)
    file = exported(net, tmp_path / "five.onnx")
    names = tmp_path / "names.json"
    names.write_text('["amber", "jade", "plum", "quartz", "ruby"]')
    record = wrap_path(file, quick(shop, cache, classes=names), tmp_path / "run", said=SAID, report=Notes())
    assert record.classes == ("amber", "jade", "plum", "quartz", "ruby")
    assert record.classifier is not None
    assert record.classifier.uncovered == ("quartz", "ruby")
    assert record.heads.classes == 3
    assert record.heads.own_classes == 5
    assert record.heads.covered == (0, 1, 2)
    run = load_run(tmp_path / "run")
    assert run.known == CLASSES
    assert run.predict(np.zeros((2, SIDE, SIDE, 3), np.uint8))[0].shape == (2, 5)
    assert evaluate(tmp_path / "run", ood={}, out=tmp_path / "report").accuracy.share > 0.8
    manifest = export_bundle(tmp_path / "run", tmp_path / "bundle")
    assert len(manifest.golden[0].probabilities) == 5


def test_folders_are_mapped_to_classes(shop: Path, trained: Trained, cache: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "photos"
    for split in ("train", "val", "test"):
        for label in CLASSES:
            shutil.copytree(shop / split / label, renamed / split / f"my {label}")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    with pytest.raises(InputError, match="my amber"):
        wrap_path(trained.file, quick(renamed, cache, classes=names), tmp_path / "run", said=SAID, report=Notes())
    mapping = tmp_path / "map.csv"
    with mapping.open("w", newline="") as stream:
        csv.writer(stream).writerows([("my amber", "amber"), ("my jade", "jade"), ("my plum", "plum")])
    record = wrap_path(
        trained.file,
        quick(renamed, cache, classes=names, classes_map=mapping),
        tmp_path / "run",
        said=SAID,
        report=Notes(),
    )
    assert record.classes == CLASSES
    assert evaluate(tmp_path / "run", ood={}, out=tmp_path / "report").accuracy.share > 0.8


def test_a_classifier_that_does_not_know_the_photos_is_refused(
    shop: Path, cache: Path, tmp_path: Path, photos: Path
) -> None:
    torch.manual_seed(1)
    from tests.wrapping.conftest import Net

    file = exported(Net(3).eval(), tmp_path / "random.onnx")
    with pytest.raises(InputError, match="always giving the most frequent label"):
        wrap_path(file, quick(shop, cache), tmp_path / "run", said=SAID, report=Notes())
    assert not list(tmp_path.glob("run*"))


def test_preprocessing_is_found_by_trial(shop: Path, trained: Trained, cache: Path, tmp_path: Path) -> None:
    notes = Notes()
    said = PreprocessingOptions(mean=PREPROCESSING.mean, std=PREPROCESSING.std, scale=255.0, fit="crop", resize=SIDE)
    record = wrap_path(trained.file, quick(shop, cache), tmp_path / "run", said=said, report=notes)
    assert record.preprocessing.channels == "rgb"
    assert "accuracy" in notes.text


def test_a_module_keeps_its_own_weights_and_hooks(shop: Path, trained: Trained, cache: Path, tmp_path: Path) -> None:
    record: RunRecord = oodguard.wrap(
        trained.net,
        shop,
        tmp_path / "run",
        feature="pool",
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        options={"cache": cache, "epochs": 4, "hidden": 16, "views": 1, "threads": 1},
    )
    assert record.classifier is not None
    assert record.classifier.file == "Net"
    assert record.classifier.width == 24
    assert not trained.net.pool._forward_hooks
    with pytest.raises(InputError, match="has no part 'nowhere'; its parts are body, pool, head"):
        oodguard.wrap(trained.net, shop, tmp_path / "run", feature="nowhere", preprocessing=PREPROCESSING)


def test_unreadable_photos_do_not_count_towards_a_class_and_an_empty_val_is_none(
    shop: Path, trained: Trained, cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "photos"
    for label in CLASSES:
        shutil.copytree(shop / "train" / label, data / "train" / label)
    (data / "val").mkdir()
    for place, path in enumerate(sorted((data / "train" / "plum").iterdir())):
        if place == 3:
            path.write_bytes(b"no picture")
        elif place > 3:
            path.unlink()
    notes = Notes()
    record = wrap_path(trained.file, quick(data, cache, all_unseen=True), tmp_path / "run", said=SAID, report=notes)
    assert record.classifier is not None
    assert record.classifier.uncovered == ("plum",)
    assert "too few photos to learn from of plum" in notes.text
    assert record.heads.covered == (0, 1)
