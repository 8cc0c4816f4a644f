#!/usr/bin/env bash
# With keep_io_types, an input read by two nodes without names gets two casts of one name, and the model no longer loads.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 onnxconverter-common==1.16.0 packaging==26.3 protobuf==6.33.6 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import onnx
import onnxruntime
from onnx import parser
from onnxconverter_common.float16 import convert_float_to_float16

print("onnxconverter-common", md.version("onnxconverter-common"), "onnxruntime", onnxruntime.__version__)


def model(names):
    proto = parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y) { a = Relu (x)  b = Neg (x)  y = Add (a, b) }')
    for node, name in zip(proto.graph.node, names):
        node.name = name
    onnx.checker.check_model(proto, full_check=True)
    return proto


def loads(proto):
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        return str(error).split("Error: ")[-1]
    return "loads"


for names, expected in ((("relu", "neg", "add"), "loads"), (("", "", ""), "two nodes with same node name")):
    before, half = loads(model(names)), convert_float_to_float16(model(names), keep_io_types=True)
    casts = [node.output[0] for node in half.graph.node if node.op_type == "Cast"]
    print(f"node names {names}: before {before}; converted: {loads(half)}; casts write {casts}")
    assert before == "loads" and expected in loads(half)
PY
