#!/usr/bin/env bash
# onnx.load refuses external data behind a symbolic link or with a second hard link, which volumes, caches and copy tools make.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import os
import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 300])],
    [numpy_helper.from_array(np.ones((4, 300), np.float32), "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
os.mkdir("plain")
onnx.save_model(model, "plain/m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)

# A folder as Kubernetes mounts one from a ConfigMap: each name is a link into a dated folder beside it.
os.makedirs("volume/..2026_01_01")
for name in ("m.onnx", "m.data"):
    shutil.copy(f"plain/{name}", "volume/..2026_01_01")
    os.symlink(f"..data/{name}", f"volume/{name}")
os.symlink("..2026_01_01", "volume/..data")

# A folder as `cp --link` and de-duplicating tools make it.
os.mkdir("linked")
for name in ("m.onnx", "m.data"):
    os.link(f"plain/{name}", f"linked/{name}")


def said(function, *arguments):
    try:
        function(*arguments)
    except onnx.checker.ValidationError as error:
        return str(error).split("m.data, ")[1]
    return "loaded"


for folder, expected in (("volume", "symbolic link"), ("linked", "multiple hard links"), ("plain", "multiple hard links"), ("volume/..data", "loaded")):
    path = f"{folder}/m.onnx"
    seen = said(onnx.load, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    total = session.run(None, {"x": np.ones((1, 4), np.float32)})[0].sum()
    print(f"{folder}: onnx.load: {seen}; onnxruntime: runs, {total:.0f}")
    assert expected in seen and expected in f"{said(onnx.checker.check_model, path)}" and total == 1200
PY
