"""Networks that this project did not make, of torchvision, timm and the onnx package: found, prepared and wrapped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx.backend.test
import onnxruntime as ort
import pytest
import torch

from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.export.bundle import export_bundle
from oodguard.training.backbone.timm_loader import timm
from oodguard.wrapping.around import wrap_path
from oodguard.wrapping.find import find_parts
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.prepare import prepare
from oodguard.wrapping.stated import PreprocessingOptions

# PyTorch's exporters warn of PyTorch itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROOT = Path(__file__).parents[1]
LIGHT = Path(str(onnx.backend.test.__file__)).parent / "data" / "light"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def run(graph: bytes | str, output: str, pixels: np.ndarray) -> np.ndarray:
    """One output of a graph under plain ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([output], {session.get_inputs()[0].name: pixels})[0]
    return found


@pytest.mark.parametrize(
    ("name", "feature", "width", "last"),
    [
        ("squeezenet", "r60", 512, ("Dropout", "Conv", "Relu", "GlobalAveragePool", "Softmax")),
        ("shufflenet", "r200", 544, ("Gemm", "Softmax")),
    ],
)
def test_graphs_of_2017_take_any_batch_and_keep_their_bits(
    name: str, feature: str, width: int, last: tuple[str, ...]
) -> None:
    file = LIGHT / f"light_{name}.onnx"
    parts = find_parts(file)
    assert (parts.layout, parts.size, parts.fixed_batch, parts.classes) == ("NCHW", (224, 224), 1, 1000)
    assert (parts.feature, parts.width, parts.last, parts.activation) == (feature, width, last, "softmax")
    prepared = prepare(file, parts)
    assert prepared.batch == "made dynamic"
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    own = np.concatenate([run(str(file), parts.output, one[None]).reshape(1, -1) for one in pixels])
    assert run(prepared.graph, "probabilities", pixels).tobytes() == own.tobytes()


@pytest.mark.parametrize("script", [False, True])
def test_a_network_of_torchvision_is_found_from_both_exporters(script: bool, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    network, file = models.mobilenet_v3_small(num_classes=7).eval(), tmp_path / "classifier.onnx"
    sample = torch.randn(1, 3, 64, 64)
    axes = {"input_names": ["input"], "dynamic_axes": {"input": {0: "n"}}} if script else {}
    torch.onnx.export(network, (sample,), file, dynamo=not script, **axes)  # type: ignore[arg-type]
    parts = find_parts(file)
    assert (parts.width, parts.classes, parts.activation) == (1024, 7, "none")
    assert parts.fixed_batch == (None if script else 1)
    prepared = prepare(file, parts)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        own = network(images)
        feature = network.classifier[:-1](network.avgpool(network.features(images)).flatten(1))
    assert run(prepared.graph, "logits", images.numpy()) == pytest.approx(own.numpy(), abs=1e-4)
    assert run(prepared.graph, "feature", images.numpy()) == pytest.approx(feature.numpy(), abs=1e-4)


def test_a_transformer_that_lost_its_batch_runs_image_by_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, depth=2, embed_dim=48, num_heads=3
    ).eval()
    file = tmp_path / "vit.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), file)
    parts = find_parts(file)
    assert (parts.width, parts.classes, parts.fixed_batch) == (48, 5, 1)
    prepared = prepare(file, parts)
    assert prepared.batch == "one by one"
    assert any("one by one" in note for note in prepared.notes)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        own = network(images).softmax(-1)
    assert run(prepared.graph, "probabilities", images.numpy()) == pytest.approx(own.numpy(), abs=1e-5)


def test_the_example_makes_a_classifier_that_keeps_its_answers_under_a_guard(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    loop = (ROOT / "examples" / "classifier.py", photos, "--out", tmp_path / "mine")
    small = ("--backbone", "test_resnet", "--size", "64", "--epochs", "6", "--lr", "3e-3")
    made = subprocess.run(
        [sys.executable, *map(str, (*loop, *small))], capture_output=True, text=True, check=False, timeout=300
    )
    assert made.returncode == 0, made.stderr
    assert float(made.stdout.split("test accuracy")[1].split()[0]) > 0.8
    file = tmp_path / "mine" / "classifier-script.onnx"
    said = PreprocessingOptions(fit="crop", resize=73, interpolation="bilinear", channels="rgb", scale=255, **IMAGENET)
    options = WrapOptions(data=photos, cache=cache, epochs=8, hidden=16, views=1, threads=1, calibration_fraction=0.3)
    record = wrap_path(file, options, tmp_path / "run", said=said)
    assert record.classes == tuple((tmp_path / "mine" / "classes.txt").read_text().split())
    export_bundle(tmp_path / "run", tmp_path / "bundle")
    preprocessing = load_manifest(tmp_path / "bundle").preprocessing
    files = sorted((photos / "test").rglob("*.jpg"))[::6]
    pixels = np.stack([load_pixels(path.read_bytes(), preprocessing) for path in files])
    mean, std = (np.asarray(IMAGENET[key], np.float32) for key in ("mean", "std"))
    entered = ((pixels.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    graph = onnx.load(file)
    graph.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["own"], axis=-1))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("own", onnx.TensorProto.FLOAT, None))
    for size in (1, 8):
        ours = run(str(tmp_path / "bundle" / "model.onnx"), "probabilities", pixels[:size])
        theirs = run(graph.SerializeToString(), "own", np.ascontiguousarray(entered[:size]))
        assert ours.tobytes() == theirs.tobytes()
