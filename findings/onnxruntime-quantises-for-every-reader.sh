#!/usr/bin/env bash
# quantize_static(nodes_to_quantize=["layer"]) also rounds what nodes that were not named read, where they share its input.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY' 2>/dev/null
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

print("onnxruntime", ort.__version__, "onnx", onnx.__version__)
model = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,2] y, float[N,4] z)'
    " { feature = Neg (x)  y = MatMul (feature, w)  z = Sub (feature, one) }"
)
for node, name in zip(model.graph.node, ("neg", "layer", "difference")):
    node.name = name
weights = {"w": np.ones((4, 2)), "one": np.array([1.0])}
model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "float.onnx")
x = np.random.default_rng(0).uniform(-100, 100, (64, 4)).astype(np.float32)


class Rows(CalibrationDataReader):
    left = [x]

    def get_next(self):
        return {"x": Rows.left.pop()} if Rows.left else None


def run(path):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["z"], {"x": x})[0]


moved = {}
for dedicated in (False, True):
    Rows.left = [x]
    options = {"DedicatedQDQPair": dedicated}
    quantize_static("float.onnx", "int8.onnx", Rows(), quant_format=QuantFormat.QDQ, nodes_to_quantize=["layer"], extra_options=options)
    made = onnx.load("int8.onnx").graph
    maker = {name: node.op_type for node in made.node for name in node.output}
    (reads,) = [maker[node.input[0]] for node in made.node if node.name == "difference"]
    moved[dedicated] = float(np.abs(run("int8.onnx") - run("float.onnx")).max())
    print(f'only "layer" is named, DedicatedQDQPair={dedicated}: "difference" reads a {reads}, its output moves by up to {moved[dedicated]:.2f}')
    assert reads == "DequantizeLinear" and moved[dedicated] > 0.3
PY
