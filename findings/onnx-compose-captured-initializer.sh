#!/usr/bin/env bash
# add_prefix does not rename an initializer used inside an If or Loop: merge_models refuses the model, add_prefix returns an invalid one.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import numpy as np
import onnx
from onnx import compose, parser
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__)
text = """<ir_version: 8, opset_import: ["" : 18]>
chooser (float[N,2] x) => (float[N,2] y) %s {
  %s
  total = ReduceSum <keepdims = 0> (x)
  zero = Constant <value = float {0.0}> ()
  positive = Greater (total, zero)
  y = If (positive) <then_branch = plus () => (float[N,2] a) { a = Add (x, one) }, else_branch = same () => (float[N,2] b) { b = Sub (x, one) }>
}"""
nodes = {
    "initializer": text % ("<float[1] one = {1}>", ""),
    "Constant node": text % ("", "one = Constant <value = float[1] {1.0}> ()"),
}
after = parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> after (float[N,2] x) => (float[N,2] z) { z = Relu (x) }')
x = np.array([[1.0, 2.0]], np.float32)


def said(function):
    try:
        return function()
    except onnx.checker.ValidationError as error:
        return str(error).split(" of node")[0]


for where, source in nodes.items():
    model = parser.parse_model(source)
    onnx.checker.check_model(model, full_check=True)
    assert ReferenceEvaluator(model).run(None, {"x": x})[0].tolist() == [[2.0, 3.0]]
    prefixed = compose.add_prefix(model, "p/")
    check = said(lambda: onnx.checker.check_model(prefixed) or "valid")
    merged = said(lambda: compose.merge_models(model, after, io_map=[("y", "x")], prefix1="a/", prefix2="b/") and "merged")
    print(f"one, {where}: add_prefix gives: {check}; merge_models with prefixes: {merged}")
    bad = "however input 'one'"
    assert (bad in check, bad in merged) == ((True, True) if where == "initializer" else (False, False))
PY
