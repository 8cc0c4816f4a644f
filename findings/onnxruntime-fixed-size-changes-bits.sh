#!/usr/bin/env bash
# Declaring the size that is fed anyway changes the last bits of a network: ONNX Runtime optimises it otherwise.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
pip=("$tmp/venv/bin/pip" --quiet --disable-pip-version-check)
{ "${pip[@]}" install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 \
  && "${pip[@]}" download --no-deps --dest "$tmp" rapidocr-onnxruntime==1.4.4; } 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
python3 -m zipfile -e rapidocr_onnxruntime-1.4.4-*.whl wheel
"$tmp/venv/bin/python" - <<'PY'
import copy

import numpy as np
import onnx
import onnxruntime

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "rapidocr-onnxruntime 1.4.4")
free = onnx.load("wheel/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")


def declared(*sizes):
    model = copy.deepcopy(free)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, sizes, strict=True):
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    return model


def run(model, images, level):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


images = np.random.default_rng(0).normal(size=(4, 3, 48, 192)).astype(np.float32)
levels = onnxruntime.GraphOptimizationLevel
changed = {}
for name, level in (("all", levels.ORT_ENABLE_ALL), ("none", levels.ORT_DISABLE_ALL)):
    first = run(free, images, level)
    for kind, model in (("names", declared("n", 3, "h", "w")), ("numbers", declared("n", 3, 48, 192))):
        changed[name, kind] = float(np.abs(first - run(model, images, level)).max())
        print(f"optimisations {name}, size declared as {kind}: probabilities move by {changed[name, kind]:.1e}")
assert changed["all", "names"] == 0, "names alone change bits now"
assert 0 < changed["all", "numbers"] < 1e-5, "a fixed size leaves the bits now"
assert changed["none", "numbers"] == 0, "without optimisations the size changes bits too"
PY
