#!/usr/bin/env bash
# Dividing int64 by int64 with rounding goes through float32 in the default exporter; integers above 2**24 come out wrong.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import contextlib
import io
import logging
import warnings

import onnxruntime
import torch

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__.split("+")[0], "onnxruntime", onnxruntime.__version__)


class Bucket(torch.nn.Module):
    def __init__(self, rounding):
        super().__init__()
        self.rounding = rounding

    def forward(self, x):
        return torch.div(x, 10, rounding_mode=self.rounding)


def run(model, x):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].tolist()


x = torch.tensor([70, 167772170, 2**40])
for rounding in ("floor", "trunc"):
    module = Bucket(rounding)
    with contextlib.redirect_stdout(io.StringIO()):
        model = torch.onnx.export(module, (x,), dynamo=True).model_proto
        torch.onnx.export(module, (x,), file := io.BytesIO(), dynamo=False)
    new, old = run(model.SerializeToString(), x), run(file.getvalue(), x)
    print(f"{rounding}: PyTorch {module(x).tolist()}, default exporter {new} by {[n.op_type for n in model.graph.node]}, dynamo=False {old}")
    assert old == module(x).tolist() == [7, 16777217, 109951162777]
    assert new == [7, 16777218, 109951164416]
PY
