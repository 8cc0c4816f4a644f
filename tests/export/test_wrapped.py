"""Bundles of runs around somebody else's classifier: its probabilities are its own, and everything else works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from starlette.testclient import TestClient

from oodguard.cli.main import run as command
from oodguard.core.classifier import CLASSIFIER_FILE
from oodguard.core.errors import InputError, QualityError
from oodguard.core.manifest import (
    GRAPH_FILE,
    INPUT_NAME,
    PROBABILITIES_NAME,
    STANDALONE_FILE,
    Manifest,
    load_manifest,
)
from oodguard.core.preprocessing import load_pixels
from oodguard.core.sharpening import Sharpening
from oodguard.core.targets import Targets
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import run_graph, session
from oodguard.export.parity import ALLOWED, TOLERANCE
from oodguard.export.standalone_parity import StandaloneOutputs
from oodguard.export.triton.repository import write_repository
from oodguard.server.app import create_gateway
from oodguard.server.recalibration import RecalibrateOptions, recalibrate
from oodguard.server.settings import ServeSettings
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import RECORD_FILE, load_record
from oodguard.training.run import load_run
from tests import foreign


@pytest.fixture(scope="module")
def options(photos: Path, cache: Path) -> TrainOptions:
    return TrainOptions(
        data=photos, cache=cache, views=1, epochs=15, hidden=16, calibration_fraction=0.4, fine_tune=False, threads=1
    )


def wrapped_run(model: onnx.ModelProto, photos: Path, options: TrainOptions, folder: Path) -> Path:
    """A run around a classifier that was taught the photos."""
    train(options, folder / "run", wrapped=foreign.wrapped(foreign.taught(model, photos), photos, folder))
    return folder / "run"


@pytest.fixture(scope="module")
def run(photos: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wrapped_run(foreign.plain(13), photos, options, tmp_path_factory.mktemp("wrapped"))


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that a bundle may have."""
    out = tmp_path_factory.mktemp("bundles") / "mine"
    export_bundle(run, out, thumbnails=True, with_standalone=True)
    return out


def pixels(manifest: Manifest, folder: Path) -> np.ndarray:
    return np.stack([load_pixels(path.read_bytes(), manifest.preprocessing) for path in sorted(folder.rglob("*.*g"))])


def probabilities(graph: bytes, images: np.ndarray) -> np.ndarray:
    return np.asarray(session(graph).run([PROBABILITIES_NAME], {INPUT_NAME: images})[0])


def test_probabilities_are_the_classifiers_own(run: Path, bundle: Path, photos: Path, strangers: Path) -> None:
    manifest = load_manifest(bundle)
    assert manifest.classifier is not None
    assert manifest.classifier.uncovered == ("rust", "teal")
    # Golden images and the 45 test photos.
    assert manifest.parity.own_images == sum(golden.exact for golden in manifest.golden) + 45
    own, fused = ((run / CLASSIFIER_FILE).read_bytes(), (bundle / GRAPH_FILE).read_bytes())
    for folder in (photos / "test", strangers):
        images = pixels(manifest, folder)
        for size in (1, 8):
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                assert probabilities(fused, batch).tobytes() == probabilities(own, batch).tobytes()


def test_scores_and_neighbours_are_those_of_pytorch(run: Path, bundle: Path, photos: Path) -> None:
    manifest = load_manifest(bundle)
    images = pixels(manifest, photos / "test")
    expected, scores = load_run(run).predict(images)
    found = run_graph(session((bundle / GRAPH_FILE).read_bytes()), images)
    np.testing.assert_array_equal(found.probabilities, expected)
    assert manifest.calibration.score_errors(scores, found.scores).max() < TOLERANCE
    assert found.distances is not None
    np.testing.assert_allclose(found.distances, load_run(run).distances(images), atol=1e-4)
    assert manifest.score_names[-3:] == ("classifier_energy", "classifier_entropy", "classifier_one_minus_msp")


def test_nothing_is_sharpened_and_to_keep_probabilities_changes_nothing(
    run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["export", str(run), "--out", str(tmp_path / "kept"), "--keep-probabilities"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "real images: those of mine.onnx, bit for bit, at batch 1 and 8" in said
    kept, plain = load_manifest(tmp_path / "kept"), load_manifest(bundle)
    assert (kept.calibration, kept.graph_sha256) == (plain.calibration, plain.graph_sha256)
    assert plain.calibration.answering is not None
    assert plain.calibration.answering.sharpening == Sharpening()


def test_the_server_answers_with_the_classifiers_probabilities(
    run: Path, bundle: Path, photos: Path, strangers: Path
) -> None:
    manifest, image = load_manifest(bundle), photos / "test" / "jade" / "000.jpg"
    own = probabilities(
        (run / CLASSIFIER_FILE).read_bytes(), load_pixels(image.read_bytes(), manifest.preprocessing)[None]
    )
    with TestClient(create_gateway(ServeSettings(bundle=bundle, watch=False)).public) as client:
        (answer,) = client.post("/predict", files=[("image", image.read_bytes())]).json()["predictions"]
        strange = next(strangers.rglob("*.png")).read_bytes()
        (other,) = client.post("/predict", files=[("image", strange)]).json()["predictions"]
        card = client.get("/model").json()
    assert (answer["label"], answer["probability"]) == ("jade", float(own.max()))
    assert (answer["is_ood"], other["is_ood"]) == (False, True)
    assert answer["labels"] == ["jade"]
    assert (card["classifier"]["file"], card["classifier"]["uncovered"]) == ("mine.onnx", ["rust", "teal"])
    (check,) = [check for check in card["checks"] if check["name"] == "The classifier's own answers"]
    assert (
        check["detail"]
        == f"On {manifest.parity.own_images} images the probabilities are those of mine.onnx, bit for bit"
    )


def test_the_standalone_graph_gives_the_verdicts(run: Path, bundle: Path, photos: Path, strangers: Path) -> None:
    manifest, graph = load_manifest(bundle), (bundle / STANDALONE_FILE).read_bytes()
    images = np.concatenate([pixels(manifest, photos / "test"), pixels(manifest, strangers)])
    verdicts = manifest.judge(run_graph(session((bundle / GRAPH_FILE).read_bytes()), images))
    found = StandaloneOutputs.run(graph, {INPUT_NAME: images})
    assert [manifest.classes[label] for label in found.label] == [verdict.label for verdict in verdicts]
    assert found.is_ood.tolist() == [float(verdict.is_ood) for verdict in verdicts]
    own = probabilities((run / CLASSIFIER_FILE).read_bytes(), images)
    assert found.probability.tobytes() == own.max(1).tobytes()
    model = onnx.load_from_string(graph)
    assert {one.domain: one.version for one in model.opset_import} == {"": 13}


def test_int8_touches_the_heads_alone(run: Path, bundle: Path, photos: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert command(["export", str(run), "--out", str(small), "--precision", "int8"]) == 0
    exact, manifest = load_manifest(bundle), load_manifest(small)
    images = pixels(manifest, photos / "test")
    graphs = [(path / GRAPH_FILE).read_bytes() for path in (bundle, small)]
    expected, found = (run_graph(session(graph), images) for graph in graphs)
    assert found.probabilities.tobytes() == expected.probabilities.tobytes()
    errors = exact.calibration.score_errors(expected.scores, found.scores).max(0)
    assert TOLERANCE < errors.max() < manifest.parity.tolerance
    untouched = [name for name, error in zip(exact.score_names, errors, strict=True) if error < TOLERANCE]
    assert untouched == [
        "knn",
        "mahalanobis",
        "classifier_energy",
        "classifier_entropy",
        "classifier_one_minus_msp",
    ]
    assert manifest.parity.own_images == exact.parity.own_images
    assert manifest.parity.label_agreement == 1.0
    assert manifest.calibration.curves != exact.calibration.curves
    own = onnx.load(run / CLASSIFIER_FILE).graph
    before, after = (onnx.load_from_string(graph) for graph in graphs)
    assert [node.op_type for node in after.graph.node][: len(own.node)] == [node.op_type for node in own.node]
    added = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    # Its input, weights, biases and result.
    assert len(added) == 4
    assert all(node.name.startswith("guard_1.") for node in added)
    assert len(after.SerializeToString()) < len(before.SerializeToString())


def test_what_cannot_be_is_one_sentence(
    run: Path, photos: Path, options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["export", str(run), "--out", str(tmp_path / "half"), "--precision", "fp16"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "fp16 would change the probabilities of mine.onnx, which keeps its own arithmetic; export fp32 or int8" in said
    )
    old = wrapped_run(foreign.plain(12), photos, options, tmp_path)
    export_bundle(old, tmp_path / "old")
    with pytest.raises(InputError, match=r"int8 needs opset 13 or newer, and classifier\.onnx in .* is of opset 12"):
        export_bundle(old, tmp_path / "small", precision="int8")
    (old / CLASSIFIER_FILE).unlink()
    with pytest.raises(InputError, match=r"classifier\.onnx"):
        export_bundle(old, tmp_path / "lost")
    assert sorted(path.name for path in tmp_path.iterdir()) == [CLASSIFIER_FILE, "old", "run"]


def test_a_classifier_that_was_swapped_is_not_exported(run: Path, photos: Path, tmp_path: Path) -> None:
    """Its feature is another one, so the heads' scores are not those that were calibrated."""
    other = tmp_path / "run"
    shutil.copytree(run, other)
    model = onnx.load(other / CLASSIFIER_FILE)
    (first,) = [tensor for tensor in model.graph.initializer if tensor.name == "conv1"]
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) * np.float32(0.5), "conv1"))
    onnx.save(model, other / CLASSIFIER_FILE)
    with pytest.raises((QualityError, InputError)):
        export_bundle(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photos_that_are_gone_leave_the_golden_images(run: Path, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    record = json.loads((moved / RECORD_FILE).read_text())
    record["options"]["data"] = str(tmp_path / "gone")
    (moved / RECORD_FILE).write_text(json.dumps(record))
    manifest = export_bundle(moved, tmp_path / "out")
    assert manifest.parity.own_images == sum(golden.exact for golden in manifest.golden)
    manifest = export_bundle(moved, tmp_path / "out", data=photos, overwrite=True)
    assert manifest.parity.own_images == sum(golden.exact for golden in manifest.golden) + 45
    with pytest.raises(InputError, match="--data"):
        export_bundle(moved, tmp_path / "out", data=tmp_path / "gone", overwrite=True)


def test_probabilities_of_a_sigmoid_leave_as_they_are(
    photos: Path, options: TrainOptions, strangers: Path, tmp_path: Path
) -> None:
    """They do not sum to one, and two classes have no photos; label sets and decisions keep what they promise."""
    model = foreign.plain(17, activation="Sigmoid")
    manifest = export_bundle(wrapped_run(model, photos, options, tmp_path), tmp_path / "out", with_standalone=True)
    images = pixels(manifest, photos / "test")
    found = run_graph(session((tmp_path / "out" / GRAPH_FILE).read_bytes()), images)
    assert np.ptp(found.probabilities.sum(1)) > 1e-3
    verdicts = manifest.judge(found, targets=Targets(accept=0.9, coverage=0.9, max_error=0.1))
    truth = [path.parent.name for path in sorted((photos / "test").rglob("*.jpg"))]
    assert [verdict.probability for verdict in verdicts] == found.probabilities.max(1).tolist()
    passed = [(verdict, label) for verdict, label in zip(verdicts, truth, strict=True) if not verdict.is_ood]
    assert len(passed) >= 30
    assert all(verdict.labels for verdict, _ in passed)
    assert np.mean([label in (verdict.labels or ()) for verdict, label in passed]) >= 0.85
    answered = [(verdict.label, label) for verdict, label in passed if verdict.decision == "answer"]
    assert np.mean([given == label for given, label in answered]) >= 0.85
    alone = StandaloneOutputs.run((tmp_path / "out" / STANDALONE_FILE).read_bytes(), {INPUT_NAME: images})
    np.testing.assert_array_equal(alone.probability, found.probabilities.max(1))


@pytest.mark.parametrize(("kind", "tolerance"), [("integers", "int8"), ("half", "fp16")])
def test_golden_images_of_a_quantised_classifier_are_those_that_runtimes_agree_on(
    kind: str, tolerance: str, photos: Path, options: TrainOptions, tmp_path: Path
) -> None:
    taught = foreign.taught(foreign.plain(17), photos)
    model = foreign.integers(taught) if kind == "integers" else foreign.half(taught)
    train(options, tmp_path / "run", wrapped=foreign.wrapped(model, photos, tmp_path))
    manifest = export_bundle(tmp_path / "run", tmp_path / "out")
    assert manifest.parity.tolerance == ALLOWED[tolerance].tolerance  # type: ignore[index]
    images = np.stack(
        [load_pixels((tmp_path / "out" / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden]
    )
    graph = (tmp_path / "out" / GRAPH_FILE).read_bytes()
    for optimised in (True, False):
        verdicts = manifest.judge(run_graph(session(graph, optimised=optimised), images))
        assert [(v.label, v.is_ood) for v in verdicts] == [(g.label, g.is_ood) for g in manifest.golden]


def test_triton_takes_it_and_thresholds_can_be_set_anew(bundle: Path, run: Path, photos: Path, tmp_path: Path) -> None:
    placed = write_repository(bundle, tmp_path / "repository")
    served = tmp_path / "repository" / placed.name / str(placed.number)
    assert load_manifest(served).classifier == load_record(run).classifier
    config = (tmp_path / "repository" / placed.name / "config.pbtxt").read_text()
    assert 'name: "probabilities"' in config
    assert "dims: 5" in config
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    done = recalibrate(RecalibrateOptions(bundle=copy, images=(str(photos / "train"),)), progress=lambda *_: None)
    assert done.calibration.answering is not None
    assert done.calibration.answering.sharpening == Sharpening()
    assert load_manifest(copy).classifier == load_manifest(bundle).classifier
