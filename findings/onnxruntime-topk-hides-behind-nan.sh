#!/usr/bin/env bash
# One NaN in a row makes TopK return values that are not the k smallest or largest; where the NaN stands decides.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnxruntime", onnxruntime.__version__)


def session(largest):
    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=1, largest=largest)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.array([2]), "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


nan = float("nan")
smallest, largest = session(0), session(1)
distances = [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]  # to six neighbours
for place, near, far in ((None, [0, 1], [5, 4]), (0, [nan, 0], [nan, 5]), (1, [4, nan], [4, nan]), (5, [0, 1], [5, 4])):
    row = np.array([[nan if i == place else value for i, value in enumerate(distances)]], np.float32)
    seen = [s.run(None, {"x": row})[0][0].tolist() for s in (smallest, largest)]
    print(f"{row[0].tolist()}: two smallest {seen[0]}, two largest {seen[1]}")
    np.testing.assert_equal(seen, [near, far])
PY
