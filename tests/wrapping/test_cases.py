"""The parts of graphs that others wrote: onnx's own light models, and cases that stand beside a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from oodguard.wrapping.find import find_parts
from oodguard.wrapping.prepare import prepare
from tests.wrapping.test_prepare import outputs, own, pictures

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
CASES = Path(__file__).parents[3] / "shared" / "cases" / "wrap"
ONE_BY_ONE = {"torch_channels_last_pool"}
NO_CASES = "no ../shared/cases/wrap beside this checkout"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("light_squeezenet", ("r60", "r65", "softmax", 512)),
        ("light_shufflenet", ("r200", "r201", "softmax", 544)),
        ("light_inception_v1", ("r141", "r143", "softmax", 1024)),
    ],
)
def test_networks_of_2017_with_their_weights_listed_as_inputs(name: str, expected: tuple[Any, ...]) -> None:
    path = LIGHT / f"{name}.onnx"
    parts = find_parts(path)
    assert (parts.feature, parts.logits, parts.activation, parts.width) == expected
    assert (parts.classes, parts.fixed_batch, parts.opset, parts.size) == (1000, 1, 9, (224, 224))


def test_a_network_of_2017_is_converted_and_takes_batches() -> None:
    path = LIGHT / "light_squeezenet.onnx"
    made = prepare(path, find_parts(path))
    assert made.batch == "made dynamic"
    pixels = pictures(made, 3)
    probabilities, feature, logits = outputs(made, pixels)
    assert (probabilities.shape, feature.shape, logits.shape) == ((3, 1000), (3, 512), (3, 1000))
    assert probabilities.tobytes() == own(path, made, pixels, batch=1).tobytes()


def cases() -> Iterator[str]:
    yield from (path.stem.removeprefix("make_") for path in sorted(CASES.glob("make_*.py")))


@pytest.mark.skipif(not CASES.exists(), reason=NO_CASES)
@pytest.mark.parametrize("name", list(cases()) or ["none"])
def test_a_case_is_found_as_its_maker_says(name: str, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, CASES / f"make_{name}.py", tmp_path], capture_output=True, text=True, check=False, timeout=300
    )
    if "ModuleNotFoundError" in made.stderr:
        pytest.skip(f"{name} needs a package that is not installed: {made.stderr.splitlines()[-1]}")
    assert made.returncode == 0, made.stderr
    truth = json.loads((tmp_path / f"{name}.json").read_text())
    path = tmp_path / f"{name}.onnx"
    parts = find_parts(path, constants={key: [0.5] for key in truth.get("other inputs", {})})
    expected = {key: truth[key].split(" ")[0].rstrip(",") for key in ("input", "layout", "output", "logits", "feature")}
    assert {key: getattr(parts, key) for key in expected} == expected
    assert (parts.dtype, parts.width) == (truth["dtype"], truth["feature size"])
    assert (parts.fixed_batch is not None) == truth["batch"].startswith("fixed")
    assert parts.class_names == tuple(truth.get("class names", ()))

    prepared = prepare(path, parts)
    expected_batch = "one by one" if name in ONE_BY_ONE else "made dynamic" if parts.fixed_batch else "dynamic"
    assert prepared.batch == expected_batch
    if parts.constants:
        return
    pixels = pictures(prepared)
    probabilities, feature, logits = outputs(prepared, pixels)
    answer = own(path, prepared, pixels, batch=parts.fixed_batch)
    if parts.activation == "none":
        assert logits.tobytes() == answer.tobytes()
    elif answer.dtype == np.uint8:
        assert np.array_equal(probabilities, answer / np.float32(256))
    else:
        assert probabilities.tobytes() == answer.tobytes()
    assert feature.shape == (len(pixels), truth["feature size"])
