#!/usr/bin/env bash
# A reduction over the last axis, followed by one constant for each column, reads the wrong constants from the second image on.
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
from onnx import TensorProto, helper, numpy_helper

print("openvino", openvino.__version__.split("-")[0], "onnxruntime", onnxruntime.__version__)
core = openvino.Core()
x = np.zeros((2, 3, 5), np.float32)
constants = np.array([10, 20, 30], np.float32)


def answers(reduction, operator, axis):
    """x [N, 3, 5] or [N, 5, 3], reduced to [N, 3], and then one constant for each of the three columns."""
    shape = ["N", 3, 5] if axis == 2 else ["N", 5, 3]
    graph = helper.make_graph(
        [helper.make_node(reduction, ["x", "axes"], ["r"], keepdims=0), helper.make_node(operator, ["r", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([axis]), "axes"), numpy_helper.from_array(constants, "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    given = x if axis == 2 else x.transpose(0, 2, 1).copy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = core.compile_model(core.read_model(model=model), "CPU")({"x": given})["y"]
    return session.run(None, {"x": given})[0].tolist(), found.tolist()


for reduction in ("ReduceSum", "ReduceMean", "ReduceMax"):
    right, found = answers(reduction, "Add", axis=2)
    print(f"{reduction} of zeros over the last axis, Add [10, 20, 30]: OpenVINO {found}, ONNX Runtime {right}")
    assert right == [[10, 20, 30], [10, 20, 30]]
    assert found == [[10, 10, 10], [20, 20, 20]]
for operator in ("Add", "Sub", "Mul", "Div"):
    right, found = answers("ReduceSum", operator, axis=1)
    assert right == found, (operator, right, found)
print("over the axis before it, all are right")
PY
