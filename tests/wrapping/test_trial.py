"""Small networks trained under each convention: the trial finds which, or says that it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing, load_pixels, network_input
from oodguard.wrapping.chosen import sample
from oodguard.wrapping.classes import match_classes
from oodguard.wrapping.conventions import FITS, VALUES, Convention, Conventions, conventions
from oodguard.wrapping.stated import Stated
from oodguard.wrapping.trial import (
    MIN_SAMPLE,
    ConventionTrial,
    Run,
    Tried,
    _clear,
    try_class_maps,
    try_conventions,
)

SIDE = 32
EACH = 60
RATE = 8e-3
# Colours that differ in hue and in brightness: both the order of channels and the range of numbers matter.
COLOURS = ((200, 60, 40), (40, 60, 200), (90, 25, 20), (20, 25, 90), (230, 200, 60), (60, 200, 230))


def picture(label: int, rng: np.random.Generator, *, middle: bool = True) -> Image.Image:
    """A wide picture of noise with a patch in the class's colour, in the middle or where a crop cuts it off."""
    height, width = 48, 96
    image = rng.normal(120, 30, (height, width, 3))
    tint = np.array(COLOURS[label]) + rng.normal(0, 22, 3)
    top, left = rng.integers(4, 20), rng.integers(36, 44) if middle else rng.choice([0, 74])
    image[top : top + 22, left : left + 22] = tint + rng.normal(0, 12, (22, 22, 3))
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


Labelled = tuple[list[Path], list[int]]


def drawn(folder: Path, **how: bool) -> Labelled:
    rng = np.random.default_rng(0)
    paths, targets = [], []
    for label in range(len(COLOURS)):
        for index in range(EACH):
            paths.append(folder / f"{label}-{index}.png")
            picture(label, rng, **how).save(paths[-1])
            targets.append(label)
    return paths, targets


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Photos and classes."""
    return drawn(tmp_path_factory.mktemp("tried"))


@pytest.fixture(scope="module")
def network(labelled: Labelled) -> Run:
    """One that learnt with ImageNet's mean and std."""
    return trained(how(VALUES[0]), *labelled)


def trained(how: Preprocessing, paths: list[Path], targets: list[int]) -> Run:
    """A convolutional network that learnt on the photos as `how` prepares them, in ONNX Runtime."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 12, 5, stride=3)
    rest = nn.Sequential(
        nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, len(COLOURS))
    )
    arrays = np.stack([network_input(load_pixels(path.read_bytes(), how), how, layout="NCHW") for path in paths])
    x, y = torch.from_numpy(arrays), torch.tensor(targets)
    unit = float(x.std())
    # As a careful person would: the first layer is started at the range of its inputs.
    with torch.no_grad():
        first.weight.div_(unit)
    groups: list[dict[str, Any]] = [{"params": first.parameters(), "lr": RATE / unit}, {"params": rest.parameters()}]
    steps = torch.optim.Adam(groups, RATE)
    for _ in range(40):
        order = torch.randperm(len(x))
        for start in range(0, len(x), 60):
            part = order[start : start + 60]
            steps.zero_grad()
            nn.functional.cross_entropy(rest(first(x[part])), y[part]).backward()  # type: ignore[no-untyped-call]
            steps.step()
    return in_onnxruntime({"first": first, "second": rest[1], "last": rest[5]})


def in_onnxruntime(layers: dict[str, Any]) -> Run:
    """The network as a file, run."""
    weights = [
        numpy_helper.from_array(getattr(layer, kind).detach().numpy(), f"{name}.{kind}")
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], strides=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight", "second.bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalMaxPool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "last.weight", "last.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    shares = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(COLOURS)])
    graph = helper.make_graph(nodes, "net", [pixels], [shares], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda values: np.asarray(session.run(None, {"x": values})[0])


def tried(run: Run, paths: list[Path], targets: list[int], **said: Any) -> ConventionTrial:
    left = conventions(Stated(said, ()), size=(SIDE, SIDE), dtype="float32")
    return try_conventions(run, paths, targets, conventions=left, layout="NCHW", dtype="float32")


def how(values: Convention, fit: str = "crop") -> Preprocessing:
    left = conventions(Stated({}, ()), size=(SIDE, SIDE), dtype="float32")
    return left.preprocessing(values, next(one for one in left.fits if one.name == fit))


@pytest.mark.parametrize("values", VALUES, ids=lambda values: values.name)
def test_the_values_that_a_network_learnt_with_are_found(values: Convention, labelled: Labelled) -> None:
    paths, targets = labelled
    found = tried(trained(how(values), paths, targets), paths, targets)
    assert found.fault is None, found.fault
    assert found.chosen is not None
    assert found.chosen.values.name == values.name
    assert found.chosen.accuracy > 0.9
    assert found.preprocessing.fit == "crop"
    rows = found.table()
    assert rows[0][0].startswith(values.name)
    assert len(rows) == len(VALUES) + len(FITS) - 1
    # What has clearly lost is not run on all photos.
    assert min(int(row[3]) for row in rows) < int(rows[0][3])


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_the_fit_that_a_network_learnt_with_is_found(fit: str, tmp_path: Path) -> None:
    paths, targets = drawn(tmp_path, middle=False)
    # Cropped, no picture shows its patch, so the values are compared with all of it, squashed.
    found = tried(trained(how(VALUES[2], fit), paths, targets), paths, targets)
    assert found.preprocessing == how(VALUES[2], fit), (found.fault, found.table())


def test_fits_are_compared_with_the_best_values(network: Run, labelled: Labelled) -> None:
    found = tried(network, *labelled)
    assert found.chosen is not None
    of = {
        row[0].split("; ")[1]: float(row[1].rstrip("%")) for row in found.table() if row[0].startswith("RGB, ImageNet")
    }
    assert of.keys() == {fit.name for fit in FITS}
    assert of["pad"] < of["squash"] <= of["crop"]


def test_accuracy_near_chance_is_refused_with_the_flags_to_give(network: Run, labelled: Labelled) -> None:
    paths, targets = labelled
    rng = np.random.default_rng(1)
    found = tried(network, paths, rng.permutation(targets).tolist())
    assert found.chosen is None
    assert len(found.table()) == len(VALUES)
    with pytest.raises(
        InputError, match=r"best of 9 ways to prepare images labels \d.* is chance: .*--classes FILE, or"
    ):
        _ = found.preprocessing


def test_the_order_of_folders_that_the_classifier_knows_is_taken(network: Run, labelled: Labelled) -> None:
    """Six folders whose order by number is the classifier's, and whose order by code points is not."""
    paths, targets = labelled
    folders = ["1", "2", "9", "10", "11", "20"]
    maps = match_classes(folders, count=len(COLOURS), metadata={})
    assert [one.source for one in maps] == ["the folders, sorted", "the folders, by number"]
    labels = [folders[target] for target in targets]
    found, trial = try_class_maps(maps, lambda one: tried(network, paths, one.targets(labels), fit="crop", resize=SIDE))
    assert found.source == "the folders, by number"
    assert trial.chosen is not None
    assert trial.chosen.accuracy > 0.9


def test_classes_in_another_order_are_refused(network: Run, labelled: Labelled) -> None:
    """Rather than a wrong preprocessing, under which chance makes more of the labels right."""
    paths, targets = labelled
    turned = [(target + 1) % len(COLOURS) for target in targets]
    with pytest.raises(InputError, match=r"classes are in another order: .* \(RGB, ImageNet mean and std\)"):
        assert tried(network, paths, turned).preprocessing
    right = tried(network, paths, targets)
    assert right.fault is None
    assert max(one.reordered_accuracy for one in right.tried) >= max(one.accuracy for one in right.tried)


def test_too_few_photos_to_tell_are_refused(network: Run, labelled: Labelled) -> None:
    """ImageNet's statistics and -1..1 differ by little, and two dozen photos show nothing of it."""
    paths, targets = labelled
    found = tried(network, paths[::15], targets[::15])
    assert found.chosen is None
    assert "RGB, ImageNet mean and std" in str(found.fault)
    assert "too close to tell which the classifier was trained with; give --preprocessing" in str(found.fault)
    # What is said about it is not asked of the photos.
    said = {"channels": "rgb", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert tried(network, paths[::15], targets[::15], **said).preprocessing.scale == 255.0
    few = [0] * (MIN_SAMPLE - 1) + [-1] * 300
    with pytest.raises(InputError, match=f"{MIN_SAMPLE - 1} photos have a class of the classifier's; {MIN_SAMPLE} are"):
        tried(network, paths[: len(few)], few)


def test_numbers_that_are_too_large_do_not_win_by_being_sure(labelled: Labelled) -> None:
    """Without biases a network labels a multiple of its input as it does the input, only surer."""
    paths, targets = labelled
    right = how(VALUES[2])
    arrays = np.stack([network_input(load_pixels(path.read_bytes(), right), right, layout="NCHW") for path in paths])
    means = arrays[..., 12:20, 12:20].mean((2, 3))
    weights = 8 * np.linalg.lstsq(means, np.eye(len(COLOURS))[targets], rcond=None)[0]

    def linear(values: np.ndarray) -> np.ndarray:
        logits = values[..., 12:20, 12:20].mean((2, 3)) @ weights
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True), dtype=np.float32)

    left = conventions(Stated({"fit": "crop", "resize": SIDE}, ()), size=(SIDE, SIDE), dtype="float32")
    left = Conventions((VALUES[6], VALUES[2]), left.fits, left.known)
    found = try_conventions(linear, paths, targets, conventions=left, layout="NCHW", dtype="float32")
    assert found.fault is None, found.fault
    assert found.preprocessing.scale == 255.0


@pytest.mark.parametrize("loud", ["RGB, 0..255", "BGR, less Caffe's mean"])
def test_of_equal_labels_the_ones_with_a_doubt_are_taken(loud: str) -> None:
    quiet, sure = (
        Tried(values, FITS[1], how(values)) for values in (VALUES[2], next(one for one in VALUES if one.name == loud))
    )
    targets = [place % 4 for place in range(200)]
    right = np.eye(4)[targets]
    quiet.add(range(200), 0.96 * right + 0.01, targets)
    sure.add(range(200), right, targets)
    notes: list[str] = []
    assert _clear(sure, [quiet], VALUES, notes) == (quiet, None)
    assert notes[0].startswith(f"{loud} labels photos as RGB, 0..1 does, but leaves no doubt of any")
    # Of numbers that span as much, nothing tells.
    other = Tried(VALUES[4], FITS[1], how(VALUES[4]))
    other.add(range(200), right, targets)
    _, fault = _clear(other, [quiet], VALUES, notes)
    assert "too close to tell" in str(fault)


def test_values_that_make_no_difference_are_the_most_usual(network: Run, labelled: Labelled) -> None:
    """A network that turns its input grey by equal parts cannot tell RGB from BGR."""

    def grey(values: np.ndarray) -> np.ndarray:
        bright = values.mean((1, 2, 3)) + 2 * values[:, :, 12:20, 12:20].mean((1, 2, 3))
        logits = -np.square(bright[:, None] - np.linspace(0.9, 2.1, 2)) * 9
        return np.asarray(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))

    paths, _ = labelled
    left = how(VALUES[2])
    arrays = [network_input(load_pixels(path.read_bytes(), left), left, layout="NCHW")[None] for path in paths]
    targets = [int(grey(array)[0].argmax()) for array in arrays]
    assert 0.2 < np.mean(targets) < 0.8
    found = tried(grey, paths, targets, scale=255.0)
    assert found.chosen is not None
    assert found.chosen.values.name == "RGB, as stated"
    assert found.notes[0] == "RGB, as stated and BGR, as stated give the same probabilities; the first is taken"


def test_a_network_of_bytes_in_the_other_layout_and_photos_that_cannot_be_read(
    network: Run, labelled: Labelled, tmp_path: Path
) -> None:
    seen: set[tuple[Any, ...]] = set()

    def bytewise(values: np.ndarray) -> np.ndarray:
        seen.add((values.dtype, *values.shape[1:]))
        return np.asarray(network(network_input(values[..., ::-1], how(VALUES[0]), layout="NCHW")))

    paths, targets = labelled
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"junk")
    mixed = [broken if i % 20 == 0 else path for i, path in enumerate(paths)]
    left = conventions(Stated({"fit": "crop", "resize": SIDE}, ()), size=(SIDE, SIDE), dtype="uint8")
    found = try_conventions(bytewise, mixed, targets, conventions=left, layout="NHWC", dtype="uint8")
    assert found.chosen is not None
    assert (found.preprocessing.channels, found.preprocessing.is_plain) == ("bgr", True)
    assert found.chosen.photos % 48 != 0
    assert seen == {(np.dtype(np.uint8), SIDE, SIDE, 3)}
    with pytest.raises(InputError, match="none of the labelled photos can be decoded"):
        try_conventions(bytewise, [broken] * 300, [0] * 300, conventions=left, layout="NHWC", dtype="uint8")


def test_numbers_that_a_network_cannot_bear_are_wrong_answers(labelled: Labelled, network: Run) -> None:
    """As float16 overflows at 0..255: what is not a number is no answer."""

    def brittle(values: np.ndarray) -> np.ndarray:
        found = network(values)
        return np.where(np.abs(values).max() > 50, np.float32(np.nan), found)

    found = tried(brittle, *labelled)
    assert found.chosen is not None
    assert found.chosen.values.name == "RGB, ImageNet mean and std"
    assert {row[0]: row[1] for row in found.table()}["RGB, 0..255; crop"] == "0.0%"


def test_a_sample_takes_the_classes_in_turn() -> None:
    targets = [0] * 90 + [1] * 6 + [-1] * 40 + [2] * 30
    places = sample(targets, most=40)
    assert len(set(places)) == 40
    counts = np.bincount([targets[place] for place in places])
    assert counts.tolist() == [17, 6, 17]
    assert places == sample(targets, most=40)
    assert sample(targets, most=40, seed=1) != places
    assert len(sample(targets, most=500)) == 126
    assert sample([-1, -1], most=5) == []
