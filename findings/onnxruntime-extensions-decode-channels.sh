#!/usr/bin/env bash
# DecodeImage gives a grey JPEG one channel, a CMYK JPEG four and a grey PNG three, in a graph that says three.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-extensions==0.15.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import io

import numpy as np
import onnxruntime
import onnxruntime_extensions
from onnx import TensorProto, helper
from PIL import Image

print("onnxruntime-extensions", md.version("onnxruntime-extensions"), "onnxruntime", onnxruntime.__version__)
graph = helper.make_graph(
    [helper.make_node("DecodeImage", ["file"], ["pixels"], domain="com.microsoft.extensions")],
    "g",
    [helper.make_tensor_value_info("file", TensorProto.UINT8, ["bytes"])],
    [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["H", "W", 3])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft.extensions", 1)]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

image = Image.new("RGB", (8, 8), (200, 100, 50))
for name, source, form, expected in (
    ("RGB JPEG", image, "JPEG", [50, 100, 200]),
    ("grey JPEG", image.convert("L"), "JPEG", [124]),
    ("CMYK JPEG", image.convert("CMYK"), "JPEG", [50, 100, 200, None]),
    ("RGB PNG", image, "PNG", [50, 100, 200]),
    ("grey PNG", image.convert("L"), "PNG", [124, 124, 124]),
    ("RGBA PNG", image.convert("RGBA"), "PNG", [50, 100, 200]),
):
    file = io.BytesIO()
    source.save(file, form, **({"quality": 100} if form == "JPEG" else {}))
    pixels = session.run(None, {"file": np.frombuffer(file.getvalue(), np.uint8)})[0]
    print(f"{name}: shape {pixels.shape}, first pixel {pixels[0, 0].tolist()}")
    assert pixels.shape == (8, 8, len(expected))
    assert all(want is None or abs(int(got) - want) <= 2 for got, want in zip(pixels[0, 0], expected))
PY
