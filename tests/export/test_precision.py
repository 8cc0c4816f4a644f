"""int8 and fp16 bundles: the same decisions with thresholds of their own, or no bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from starlette.testclient import TestClient

from oodguard.cli.main import run as command
from oodguard.core.errors import InputError, QualityError
from oodguard.core.manifest import GRAPH_FILE, MANIFEST_FILE, Manifest, Parity, load_manifest
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.verdict import Outputs
from oodguard.export import bundle as bundling
from oodguard.export import reduce as reducing
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import run_batches, run_graph, session
from oodguard.export.half import to_float16
from oodguard.export.parity import ALLOWED, Judged, compare_decisions, require_decisions
from oodguard.export.photos import RunPhotos, pixel_batches, run_photos, spread
from oodguard.export.quantize import safe_scales, to_int8
from oodguard.server.app import create_gateway
from oodguard.server.settings import ServeSettings
from oodguard.training.photos.labelled import load_unlabelled
from oodguard.training.progress import Silent
from oodguard.training.record import load_record
from oodguard.training.run import load_run


class Remember(Silent):
    """A reporter that keeps the names of the stages."""

    def __init__(self) -> None:
        self.stages: set[str] = set()

    def progress(self, stage: str, done: int, total: int) -> None:
        self.stages.add(stage)


@pytest.fixture(scope="module")
def small(run: Path, strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 bundle of the shared run."""
    out = tmp_path_factory.mktemp("small") / "discs"
    report = Remember()
    export_bundle(run, out, version="7", precision="int8", ood={"noise": strangers}, report=report)
    assert {"fused graph", "ranges of activations", "int8 answers on noise"} <= report.stages
    return out


@pytest.fixture(scope="module")
def own(run: Path) -> RunPhotos:
    return run_photos(load_run(run), run, data=None)


def graph_of(bundle: Path) -> bytes:
    return (bundle / GRAPH_FILE).read_bytes()


def batches(manifest: Manifest, folder: Path) -> list[Pixels]:
    return list(pixel_batches(load_unlabelled(folder), manifest.preprocessing, stage="", report=Silent()))


def traced_before(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the seconds of tracing a network that was traced for the float32 bundle."""
    monkeypatch.setattr(bundling, "to_onnx", lambda *_, **__: graph_of(bundle))


def damaged(graph: bytes, *_: object) -> bytes:
    """The same graph with the heads' first layer turned round."""
    model = onnx.load_from_string(graph)
    (wide,) = [tensor for tensor in model.graph.initializer if tensor.name == "heads.wide"]
    wide.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wide)[::-1].copy(), wide.name))
    return bytes(model.SerializeToString())


def test_an_int8_bundle_loads_and_judges(small: Path, bundle: Path, photos: Path, strangers: Path) -> None:
    manifest = load_manifest(small)
    assert (manifest.precision, load_manifest(bundle).precision) == ("int8", "fp32")
    assert manifest.parity.label_agreement >= 0.94
    assert set(manifest.parity.auroc_change) == {"noise"}
    assert len(graph_of(small)) < 0.5 * len(graph_of(bundle))
    (known,) = run_batches([session(graph_of(small))], batches(manifest, photos / "test"))
    truth = [photo.label for photo in load_unlabelled(photos / "test")]
    verdicts = manifest.judge(known)
    assert np.mean([v.label == label for v, label in zip(verdicts, truth, strict=True)]) > 0.8
    assert np.mean([v.is_ood for v in verdicts]) < 0.2
    (unknown,) = run_batches([session(graph_of(small))], batches(manifest, strangers))
    assert all(v.is_ood for v in manifest.judge(unknown))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_server_takes_it_as_any_other(
    small: Path, photos: Path, engine: Literal["onnxruntime", "openvino"]
) -> None:
    """Ready means that the engine's own arithmetic answers the golden images within the manifest's tolerance."""
    manifest = load_manifest(small)
    image = photos / "test" / "amber" / "000.jpg"
    pixels = load_pixels(image.read_bytes(), manifest.preprocessing)[None]
    (verdict,) = manifest.judge(run_graph(session(graph_of(small)), pixels))
    with TestClient(create_gateway(ServeSettings(bundle=small, engine=engine, watch=False)).public) as client:
        assert client.get("/health/ready").status_code == 200
        (answer,) = client.post("/predict", files=[("image", image.read_bytes())]).json()["predictions"]
    assert (answer["label"], answer["is_ood"]) == (verdict.label, verdict.is_ood)


def test_the_backbone_is_int8_and_what_decides_is_float(small: Path) -> None:
    model = onnx.load_from_string(graph_of(small))
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert {p.key: p.value for p in model.metadata_props}["oodguard.precision"] == "int8"
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    kinds = [made_by.get(n.input[1]) for n in model.graph.node if n.op_type == "Conv"]
    # EfficientNet-Lite0's stem is a convolution, a depthwise and a pointwise one.
    assert kinds == [None] * 3 + ["DequantizeLinear"] * (len(kinds) - 3)
    assert not any(n.op_type == "Clip" for n in model.graph.node if made_by.get(n.input[0]) == "DequantizeLinear")
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert {"heads.w2", "heads.density.projection", "heads.anchored_w2"} <= floats
    assert "heads.wide" not in floats


def test_thresholds_come_from_the_quantised_graph(small: Path, run: Path, own: RunPhotos) -> None:
    manifest, record = load_manifest(small), load_record(run)
    pixels = pixel_batches(own.calibration, manifest.preprocessing, stage="", report=Silent())
    (found,) = run_batches([session(graph_of(small))], pixels)
    expected = record.calibration.refit(manifest.calibration.columns(found.scores))
    for name, curve in manifest.calibration.curves.items():
        np.testing.assert_allclose(curve.values, expected.curves[name].values, rtol=1e-6, atol=1e-6)
        assert curve.values != record.calibration.curves[name].values
    fused = manifest.calibration.fusion.curve
    np.testing.assert_allclose(fused.values, expected.fusion.curve.values, rtol=1e-5, atol=1e-5)


def test_golden_answers_come_from_the_quantised_graph(small: Path) -> None:
    manifest = load_manifest(small)
    pixels = np.concatenate(batches(manifest, small / "golden"))
    running = session(graph_of(small))
    expected = np.array([g.scores for g in manifest.golden])
    assert manifest.calibration.score_errors(expected, run_graph(running, pixels).scores).max() < 1e-4
    assert manifest.parity.tolerance == ALLOWED["int8"].tolerance
    # Integer kernels and float arithmetic between the same rounding steps: nothing saturates.
    plain = run_graph(session(graph_of(small), optimised=False), pixels)
    assert manifest.calibration.score_errors(expected, plain.scores).max() < manifest.parity.tolerance
    for golden, verdict in zip(manifest.golden, manifest.judge(plain), strict=True):
        assert (golden.label, golden.is_ood) == (verdict.label, verdict.is_ood)


def test_a_damaged_graph_is_not_exported(
    run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_before(bundle, monkeypatch)
    monkeypatch.setattr(reducing, "to_int8", damaged)
    with pytest.raises(QualityError, match=r"changes .* of the labels .* nothing was exported"):
        export_bundle(run, tmp_path / "out", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_the_gate_closes_on_labels_flags_and_detection(
    bundle: Path, small: Path, photos: Path, strangers: Path
) -> None:
    exact, draft = load_manifest(bundle), load_manifest(small)
    running = [session(graph_of(bundle)), session(graph_of(small))]
    expected, found = run_batches(running, batches(exact, photos / "test"))
    noise = run_batches(running, batches(exact, strangers))
    reference = Judged(exact.calibration, expected, {"noise": noise[0]})

    def parity(outputs: Outputs, ood: Outputs) -> Parity:
        return compare_decisions(reference, Judged(draft.calibration, outputs, {"noise": ood}), "int8")

    require_decisions(parity(found, noise[1]))
    rolled = Outputs(probabilities=np.roll(found.probabilities, 1, axis=1), scores=found.scores)
    with pytest.raises(QualityError, match=r"changes (9\d\.\d|100\.0)% of the labels"):
        require_decisions(parity(rolled, noise[1]))
    strange = Outputs(probabilities=found.probabilities, scores=np.resize(noise[1].scores, found.scores.shape))
    with pytest.raises(QualityError, match=r"of the OOD flags"):
        require_decisions(parity(strange, noise[1]))
    with pytest.raises(QualityError, match=r"loses 0\.\d+ AUROC on noise"):
        require_decisions(parity(found, found))


def test_photos_that_are_absent_or_others_are_one_sentence(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command(["export", str(run), "--out", str(tmp_path / "b"), "--precision", "int8", "--data", "absent"])
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "absent does not exist" in said
    assert "--data" in said
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    (other / "train" / "jade" / "000.jpg").unlink()
    loaded = load_run(run)
    with pytest.raises(InputError, match=r"is not what .* was trained on: 1 of the"):
        run_photos(loaded, run, data=other)
    shutil.copyfile(photos / "train" / "jade" / "000.jpg", other / "train" / "jade" / "000.jpg")
    moved = run_photos(loaded, run, data=other)
    assert len(moved.calibration) == loaded.record.splits.calibration
    assert all(photo.path.is_relative_to(other) for photo in moved.calibration)
    with pytest.raises(InputError, match="int8 and fp16"):
        export_bundle(run, tmp_path / "b", data=photos)
    assert not (tmp_path / "b").exists()


def test_ranges_are_measured_on_every_class(own: RunPhotos) -> None:
    chosen = spread(own.training, 12, seed=0)
    assert chosen == spread(own.training, 12, seed=0)
    assert chosen != spread(own.training, 12, seed=1)
    labels = [photo.label for photo in chosen]
    assert {labels.count(label) for label in labels} == {4}


def test_the_same_graph_gives_the_same_bytes(bundle: Path, own: RunPhotos) -> None:
    graph, manifest = graph_of(bundle), load_manifest(bundle)

    def once() -> bytes:
        pixels = pixel_batches(own.training[:16], manifest.preprocessing, stage="", report=Silent())
        return to_int8(graph, pixels)

    assert once() == once()
    assert to_float16(graph) == to_float16(graph)


def test_weights_that_cannot_saturate() -> None:
    # Alone, a weight takes all 127 steps; two of one sign share 127.5; two of opposite signs share nothing.
    weight = np.array([[2.0, 0.0], [2.0, 2.0], [2.0, -2.0], [-1.0, -1.0]], dtype=np.float32)
    np.testing.assert_allclose(safe_scales(weight), [2 / 127, 4 / 127.5, 2 / 127, 2 / 127.5])
    # Neighbours are input channels of one tap: (3, 1) and (1, 3), not (3, 1) across taps.
    taps = np.array([[[3.0, 1.0]], [[1.0, 3.0]]], dtype=np.float32).reshape(1, 2, 1, 2)
    np.testing.assert_allclose(safe_scales(taps), [4 / 127.5])
    depthwise = np.full((1, 1, 3, 3), 2.0, dtype=np.float32)
    np.testing.assert_allclose(safe_scales(depthwise), [2 / 127])
    random = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    steps = np.round(random / safe_scales(random)[:, None])
    pairs = steps.reshape(64, 48, 2).sum(2)
    assert 255 * np.abs(pairs).max() <= 32767
    assert np.abs(steps).max() <= 127
    assert np.median(np.abs(steps).max(1)) > 90


def test_fp16_keeps_its_ends_and_its_heads(
    run: Path,
    bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced_before(bundle, monkeypatch)
    out = tmp_path / "half"
    assert command(["export", str(run), "--out", str(out), "--precision", "fp16", "--data", str(photos)]) == 0
    assert "same decisions as fp32" in " ".join(capsys.readouterr().out.split())
    manifest = load_manifest(out)
    assert (manifest.precision, manifest.parity.precision) == ("fp16", "fp16")
    model = onnx.load_from_string(graph_of(out))
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {TensorProto.FLOAT, TensorProto.INT32}
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    weights = {kinds[n.input[1]] for n in model.graph.node if n.op_type == "Conv"}
    assert weights == {TensorProto.FLOAT16}
    assert {k for name, k in kinds.items() if name.startswith("heads.")} == {TensorProto.FLOAT}
    exact, pixels = load_manifest(bundle), np.concatenate(batches(manifest, photos / "test"))
    expected, found = (run_graph(session(graph_of(b)), pixels) for b in (bundle, out))
    assert 0 < exact.calibration.score_errors(expected.scores, found.scores).max() < manifest.parity.tolerance


def test_manifests_from_before_precision_still_load(bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    raw = json.loads((old / MANIFEST_FILE).read_text())
    del raw["precision"]
    for field in ("precision", "label_agreement", "flag_agreement", "auroc_change"):
        del raw["parity"][field]
    (old / MANIFEST_FILE).write_text(json.dumps(raw))
    assert load_manifest(old) == load_manifest(bundle)
