#!/usr/bin/env bash
# A compiled model casts whatever array it is given to its input type, and wraps; ONNX Runtime refuses the same call.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

print("openvino", openvino.__version__.split("-")[0], "onnxruntime", onnxruntime.__version__)


def model(kind):
    shapes = [helper.make_tensor_value_info(name, kind, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", shapes[:1], shapes[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


core = openvino.Core()
for kind, name, given, expected in (
    (TensorProto.UINT8, "uint8", np.array([[0.2, 0.5, 0.999]], np.float32), [0, 0, 0]),  # pixels in 0..1 are a black image
    (TensorProto.UINT8, "uint8", np.array([[256, 300, 511]], np.int64), [0, 44, 255]),
    (TensorProto.INT64, "int64", np.array([[1.9, 2.9, 3.9]], np.float64), [1, 2, 3]),
):
    compiled = core.compile_model(core.read_model(model=model(kind)), "CPU")
    seen = compiled({"x": given})["y"][0].tolist()
    session = onnxruntime.InferenceSession(model(kind), providers=["CPUExecutionProvider"])
    try:
        session.run(None, {"x": given})
        refused = False
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
        refused = True
    print(f"input declared {name}, given {given.dtype} {given[0].tolist()}: OpenVINO answers {seen}, ONNX Runtime {'refuses' if refused else 'answers'}")
    assert seen == expected and refused
PY
