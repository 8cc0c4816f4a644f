"""The standalone graph gives the verdicts of `Manifest.judge`: on photos, on any raw outputs, in other runtimes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError

from oodguard.cli.main import run as command
from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import FormatError, QualityError
from oodguard.core.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    STANDALONE_FILE,
    STANDALONE_OUTPUTS,
    Manifest,
    load_manifest,
)
from oodguard.core.preprocessing import load_pixels
from oodguard.core.scores import ScoreName
from oodguard.core.sharpening import Sharpening
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outputs, Verdict
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import run_graph, session
from oodguard.export.portable import portable
from oodguard.export.standalone import CEILING, MARGIN, Ramps, standalone, verdict_graph
from oodguard.export.standalone_parity import TOLERANCE, StandaloneOutputs, measure_standalone, rows_of
from oodguard.training.run import load_run

ACCEPTS = (None, 0.5, 0.8, 0.9, 0.97)
NAMES = [spec.name for spec in STANDALONE_OUTPUTS]


@pytest.fixture(scope="module")
def alone(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a standalone graph, as the command writes it."""
    out = tmp_path_factory.mktemp("alone") / "discs"
    assert command(["export", str(run), "--out", str(out), "--standalone"]) == 0
    return out


@pytest.fixture(scope="module")
def images(alone: Path, photos: Path, strangers: Path) -> np.ndarray:
    """Every test photo and every stranger, as pixels."""
    preprocessing = load_manifest(alone).preprocessing
    paths = [*sorted((photos / "test").rglob("*.jpg")), *sorted(strangers.rglob("*.png"))]
    return np.stack([load_pixels(path.read_bytes(), preprocessing) for path in paths])


def raw(manifest: Manifest) -> dict[str, np.ndarray]:
    rows = rows_of(manifest.calibration, len(manifest.classes))
    return {"probabilities": rows.probabilities, "scores": rows.scores}


def judged(manifest: Manifest, outputs: Outputs, accept: float | None) -> list[Verdict]:
    return manifest.judge(outputs, targets=None if accept is None else Targets(accept=accept))


def agree(manifest: Manifest, outputs: Outputs, found: StandaloneOutputs, accept: float | None) -> None:
    """Labels and probabilities are the same, fused scores within the tolerance, and flags but on the threshold itself.

    Float32 moves a step by at most `MARGIN`: an image that scores so little above a threshold passes.
    """
    verdicts = judged(manifest, outputs, accept)
    assert [manifest.classes[label] for label in found.label] == [verdict.label for verdict in verdicts]
    np.testing.assert_allclose(found.probability, [verdict.probability for verdict in verdicts], rtol=1e-5, atol=1e-7)
    scores = np.array([verdict.ood_score for verdict in verdicts])
    np.testing.assert_allclose(found.ood_score, scores, rtol=TOLERANCE, atol=TOLERANCE)
    threshold = verdicts[0].threshold
    clear = np.abs(scores - threshold) > 2 * MARGIN * max(abs(threshold), 1.0)
    exact = scores == threshold
    assert clear.mean() > 0.99
    flags = np.array([verdict.is_ood for verdict in verdicts])
    np.testing.assert_array_equal((found.is_ood == 1)[clear | exact], flags[clear | exact])
    assert set(found.is_ood.tolist()) <= {0.0, 1.0}


def test_every_photo_has_the_servers_verdict(alone: Path, images: np.ndarray) -> None:
    manifest, file = load_manifest(alone), (alone / STANDALONE_FILE).read_bytes()
    truth = run_graph(session((alone / GRAPH_FILE).read_bytes()), images)
    default = StandaloneOutputs.run(file, {"images": images})
    seen = set()
    for accept in ACCEPTS:
        verdicts = judged(manifest, truth, accept)
        found = StandaloneOutputs.run(file, {"images": images}, accept=accept)
        flags = [verdict.is_ood for verdict in verdicts]
        assert [manifest.classes[label] for label in found.label] == [verdict.label for verdict in verdicts]
        assert (found.is_ood == 1).tolist() == flags
        np.testing.assert_allclose(found.ood_score, [v.ood_score for v in verdicts], rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(found.percentile, [v.percentile for v in verdicts], atol=1e-3)
        # What a caller computes where a runtime takes no `accept`.
        wanted = manifest.targets.accept if accept is None else accept
        assert (default.percentile >= 100 * wanted - 1e-3).tolist() == flags
        seen |= set(flags)
    assert seen == {True, False}


def test_any_raw_outputs_have_the_calibrations_verdict(alone: Path) -> None:
    manifest = load_manifest(alone)
    graph = verdict_graph(manifest.calibration, classes=len(manifest.classes), accept=manifest.targets.accept)
    rows = raw(manifest)
    assert rows["scores"].max() > 1e5 * max(curve.values[-1] for curve in manifest.calibration.curves.values())
    assert (rows["probabilities"] == 0).any()
    for accept in (*ACCEPTS, 0.98, 1e-3):
        agree(manifest, Outputs(**rows), StandaloneOutputs.run(graph, rows, accept=accept), accept)


def test_calibration_images_are_judged_alike_on_every_threshold(run: Path, alone: Path) -> None:
    whole, kept = load_manifest(alone).calibration, load_run(run)
    scores = np.stack(list(kept.calibration.values()), axis=1).astype(np.float32)
    rows = Outputs(probabilities=kept.labelled.probabilities[-len(scores) :].astype(np.float32), scores=scores)
    exact = 0
    # Without classes the thresholds are these images' own scores; with them they are scores out of fold.
    for calibration in (whole, whole.model_copy(update={"answering": None})):
        graph = verdict_graph(calibration, classes=3, accept=0.95)
        fused = calibration.fused(rows)
        # Of photos that are twins the last digit of float64 decides which one is a rank above the other.
        all_scores = calibration.fusion.score(calibration.curves, calibration.columns(rows.scores))
        gaps = np.abs(all_scores[:, None] - all_scores) + np.where(np.eye(len(scores)), 1.0, 0.0)
        single = gaps.min(1) > 1e-6
        assert single.mean() > 0.9
        for accept in calibration.curve.levels:
            threshold = calibration.curve.threshold(accept)
            found = StandaloneOutputs.run(graph, dict(rows), accept=accept).is_ood == 1
            apart = single & ((fused == threshold) | (np.abs(fused - threshold) > 2 * MARGIN))
            np.testing.assert_array_equal(found[apart], (fused > threshold)[apart])
            exact += int((single & (fused == threshold)).sum())
    assert exact >= 0.9 * len(scores)


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 12 + [1.0] * 12,
        [*np.linspace(-3, 5, 60), *[5.0] * 8, 9.0],
        [7.5] * 40,
        [*np.geomspace(1e-20, 1e20, 300)],
        [*np.random.default_rng(1).normal(1000, 1e-3, 3000)],
    ],
    ids=["two values", "ties at the knee", "one value", "forty decades", "more than are kept"],
)
def test_ramps_follow_a_curve_whatever_its_ties(values: list[float]) -> None:
    curve = QuantileCurve.fit(np.float32(values))
    around = np.float32(values)
    x = np.unique(np.concatenate([around, np.nextafter(around, np.float32(-1e30)), around[:1] - 1, around[-1:] + 1]))
    x = x[(x == 0) | (np.abs(x) > 1e-30)]
    ramps = Ramps.of(curve, slack=0.0)
    with np.errstate(over="ignore"):
        rise = np.clip((np.float32(ramps.ends) - x[:, None]) * np.float32(ramps.slopes), 0, 1)
    survivors = (rise * np.float32(ramps.rises)).sum(1) + np.float32(ramps.floor)
    knee, base, _ = curve.tail
    expected = np.minimum(curve.surprise(np.minimum(x.astype(np.float64), knee)), base)
    np.testing.assert_allclose(-np.log(survivors / (curve.samples + 1)), expected, atol=2e-6 * (1 + len(values) / 60))


def test_an_acceptance_that_cannot_be_promised_is_the_next_that_can(alone: Path) -> None:
    manifest = load_manifest(alone)
    rows = raw(manifest)
    graph = verdict_graph(manifest.calibration, classes=3, accept=0.95)
    most = StandaloneOutputs.run(graph, rows, accept=manifest.max_accept).is_ood
    assert 0 < most.sum() < len(most)
    for accept in (manifest.max_accept + 1e-4, 1.0, 7.0):
        np.testing.assert_array_equal(StandaloneOutputs.run(graph, rows, accept=accept).is_ood, most)
    least = StandaloneOutputs.run(graph, rows, accept=1e-6).is_ood
    for accept in (0.0, -1.0):
        np.testing.assert_array_equal(StandaloneOutputs.run(graph, rows, accept=accept).is_ood, least)
    lowest, fused = manifest.calibration.curve.values[0], manifest.calibration.fused(Outputs(**rows))
    clear = np.abs(fused - lowest) > 2 * MARGIN
    assert (fused <= lowest).any()
    np.testing.assert_array_equal((least == 1)[clear], (fused > lowest)[clear])


def test_scores_beyond_every_number_are_flagged(alone: Path) -> None:
    manifest = load_manifest(alone)
    graph = verdict_graph(manifest.calibration, classes=3, accept=0.5)
    rows = {"probabilities": np.full((2, 3), 1 / 3, np.float32), "scores": np.zeros((2, 8), np.float32)}
    rows["scores"][0], rows["scores"][1] = 3e38, np.nan
    found = StandaloneOutputs.run(graph, rows)
    assert found.is_ood.tolist() == [1, 1]
    assert found.percentile.tolist() == [100, 100]
    assert np.isfinite(found.ood_score[0])
    assert found.ood_score[0] > 1e6


def test_openvino_and_the_reference_evaluator_agree(alone: Path, images: np.ndarray) -> None:
    file = alone / STANDALONE_FILE
    expected = StandaloneOutputs.run(file.read_bytes(), {"images": images})
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # One optional input: OpenVINO knows its default and no input.
    assert [port.get_any_name() for port in compiled.inputs] == ["images"]
    found = {port.get_any_name(): value for port, value in compiled({"images": images}).items()}
    few = images[[0, 20, -1]]
    reference = dict(zip(NAMES, ReferenceEvaluator(str(file)).run(NAMES, {"images": few}), strict=True))
    for name in NAMES:
        truth = getattr(expected, name)
        np.testing.assert_allclose(found[name], truth, rtol=1e-3, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(reference[name], truth[[0, 20, -1]], rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_manifest_lists_the_file_and_a_change_is_refused(alone: Path, tmp_path: Path) -> None:
    manifest = load_manifest(alone)
    record = manifest.standalone
    assert record is not None
    assert record.outputs == STANDALONE_OUTPUTS
    assert record.max_score_error < TOLERANCE
    properties = {p.key: p.value for p in onnx.load(alone / STANDALONE_FILE).metadata_props}
    assert json.loads(properties["oodguard.classes"]) == list(manifest.classes)
    assert properties["oodguard.version"] == "1"
    moved = json.loads((alone / MANIFEST_FILE).read_text())
    moved["calibration"]["answering"]["offsets"][0] += 1e-9
    with pytest.raises(ValidationError, match="the standalone graph was made of another calibration"):
        Manifest.model_validate(moved)
    changed = tmp_path / "changed"
    shutil.copytree(alone, changed)
    with (changed / STANDALONE_FILE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(FormatError, match=r"standalone.onnx in .* was changed after export"):
        load_manifest(changed)


def test_the_gate_closes_on_other_verdicts(alone: Path, images: np.ndarray) -> None:
    manifest, graph = load_manifest(alone), (alone / GRAPH_FILE).read_bytes()
    own = manifest.calibration
    scores = run_graph(session(graph), images).scores
    moved = own.refit({name: column + 1.0 for name, column in own.columns(scores).items()})
    with pytest.raises(QualityError, match="another flag; nothing was exported"):
        measure_standalone(graph, standalone(graph, own, accept=1e-3), own, accept=0.95, images=images)
    model = onnx.load_from_string(standalone(graph, own, accept=0.95))
    for node in model.graph.node:
        if node.output[0] == "label":
            node.op_type = "ArgMin"
    with pytest.raises(QualityError, match="another label than the graph; nothing was exported"):
        measure_standalone(graph, model.SerializeToString(), own, accept=0.95, images=images)
    with pytest.raises(QualityError, match="nothing was exported"):
        measure_standalone(graph, standalone(graph, moved, accept=0.95), own, accept=0.95, images=images)


def test_a_small_graph_has_one_of_its_own(run: Path, strangers: Path, images: np.ndarray, tmp_path: Path) -> None:
    manifest = export_bundle(run, tmp_path / "small", precision="int8", with_standalone=True)
    truth = run_graph(session((tmp_path / "small" / GRAPH_FILE).read_bytes()), images)
    found = StandaloneOutputs.run((tmp_path / "small" / STANDALONE_FILE).read_bytes(), {"images": images})
    flags = [verdict.is_ood for verdict in manifest.judge(truth)]
    assert (found.is_ood == 1).tolist() == flags
    assert manifest.calibration != load_run(run).record.calibration


def test_a_bundle_gets_none_afterwards(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["export", str(alone), "--triton", str(tmp_path / "models"), "--standalone"]) != 0
    assert "leave out --standalone" in " ".join(capsys.readouterr().err.split())


def test_operators_that_runtimes_disagree_on_are_written_out() -> None:
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceLogSumExp", ["x", "axes"], ["lse"], keepdims=0),
        helper.make_node("LogSoftmax", ["x"], ["log_softmax"], axis=-1),
        helper.make_node("ReduceL2", ["x", "axes"], ["l2"], keepdims=1),
    ]
    shapes = {"lse": ["n"], "log_softmax": ["n", 4], "l2": ["n", 1]}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "three",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            [axes],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    x = np.array([[0, 1, 2, 3], [1000, 1000, -1000, 0], [-90, -91, -92, -93]], np.float32)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    changed = portable(model)
    onnx.checker.check_model(changed, full_check=True)
    assert (changed.opset_import[0].version, changed.ir_version) == (18, 8)
    assert not {"ReduceLogSumExp", "LogSoftmax", "ReduceL2"} & {node.op_type for node in changed.graph.node}
    found = ort.InferenceSession(changed.SerializeToString()).run(None, {"x": x})
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert found[0][1] == pytest.approx(1000 + np.log(2))


@pytest.mark.parametrize("sharpening", [Sharpening(), Sharpening(power=1.7), Sharpening(power=2.5, floor=0.02)])
def test_probabilities_leave_as_chances(alone: Path, sharpening: Sharpening) -> None:
    manifest = load_manifest(alone)
    whole = manifest.calibration
    assert whole.answering is not None
    assert any(whole.answering.offsets)
    answering = whole.answering.model_copy(update={"sharpening": sharpening})
    calibration = whole.model_copy(update={"answering": answering})
    rows = raw(manifest)
    rows["probabilities"][:3] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 - 1e-7, 1e-7, 1e-38]]
    found = StandaloneOutputs.run(verdict_graph(calibration, classes=3, accept=0.95), rows)
    chances = calibration.chances(rows["probabilities"])
    np.testing.assert_allclose(found.probability, chances.max(1), rtol=1e-5)
    np.testing.assert_array_equal(found.label, rows["probabilities"].argmax(1))


def test_a_confident_target_is_the_default_of_the_graph(alone: Path) -> None:
    manifest = load_manifest(alone)
    targets = Targets(accept=0.8, confidence=0.9)
    level = manifest.calibration.curve.level(0.8, confidence=0.9)
    assert level > 0.8
    rows = raw(manifest)
    graph = verdict_graph(manifest.calibration, classes=3, accept=level)
    verdicts = manifest.judge(Outputs(**rows), targets=targets)
    clear = [abs(verdict.ood_score - verdict.threshold) > 2 * MARGIN for verdict in verdicts]
    found = StandaloneOutputs.run(graph, rows).is_ood == 1
    np.testing.assert_array_equal(found[clear], np.array([verdict.is_ood for verdict in verdicts])[clear])


def test_a_surprise_without_end_stops_at_a_ceiling() -> None:
    scores = {ScoreName.KNN: np.float32([1.0] * 30)}
    calibration = Calibration.fit(scores)
    rows = {"probabilities": np.float32([[0.5, 0.5]]), "scores": np.float32([[1e30]])}
    found = StandaloneOutputs.run(verdict_graph(calibration, classes=2, accept=0.95), rows)
    assert found.is_ood.tolist() == [1]
    assert CEILING <= found.ood_score[0] < np.inf
