#!/usr/bin/env bash
# convert_float_to_float16 turns every constant above 10000 into 10000, though float16 reaches 65504.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxconverter-common==1.16.0 packaging==26.3 protobuf==6.33.6 sympy==1.14.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import warnings

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common.float16 import convert_float_to_float16 as by_onnxconverter_common
from onnxruntime.transformers.float16 import convert_float_to_float16 as by_onnxruntime

print("onnxconverter-common", md.version("onnxconverter-common"), "onnxruntime", onnxruntime.__version__)


def model():
    graph = helper.make_graph(
        [helper.make_node("Greater", ["score", "thresholds"], ["flags"], name="compare")],
        "g",
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("flags", TensorProto.BOOL, ["N", 2])],
        [numpy_helper.from_array(np.array([20000.0, 300000.0], np.float32), "thresholds")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def flags(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"score": np.array([[15000.0]], np.float32)})[0][0].tolist()


print("float32: thresholds [20000, 300000], score 15000, flags", flags(model()))
assert flags(model()) == [False, False]
for name, convert, expected, expected_flags, warned in (
    ("onnxconverter-common", by_onnxconverter_common, [10000.0, 10000.0], [True, True], ["the float32 number 300000.0 will be truncated to 10000.0"]),
    ("onnxruntime's copy", by_onnxruntime, [20000.0, 65504.0], [False, False], []),
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        half = convert(model(), keep_io_types=True)
    values = numpy_helper.to_array(half.graph.initializer[0]).astype(float).tolist()
    said = [str(warning.message) for warning in caught]
    print(f"{name}: thresholds {values}, flags {flags(half)}, warnings {said}")
    assert (values, flags(half), said) == (expected, expected_flags, warned)
PY
