#!/usr/bin/env bash
# Two arguments that change the result are left out of the exported graph without a word.
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
import torch.nn.functional as F

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__.split("+")[0], "onnxruntime", onnxruntime.__version__)


class SumPool(torch.nn.Module):
    def forward(self, x):
        return F.avg_pool2d(x, 2, divisor_override=1)


class MeanOfClass(torch.nn.Module):
    def forward(self, x):
        return torch.zeros(2).scatter_reduce(0, torch.tensor([0, 0, 1, 1]), x, "mean", include_self=False)


for module, x, torch_expected, onnx_expected in (
    (SumPool(), torch.ones(1, 1, 2, 2), [4.0], [1.0]),  # the sum comes out as the mean
    (MeanOfClass(), torch.tensor([1.0, 3.0, 10.0, 20.0]), [2.0, 15.0], [3.0, 20.0]),  # the mean comes out as the last element
):
    with contextlib.redirect_stdout(io.StringIO()):
        model = torch.onnx.export(module, (x,), dynamo=True).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    torch_says = module(x).flatten().tolist()
    onnx_says = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].ravel().tolist()
    print(f"{type(module).__name__}: PyTorch {torch_says}, exported {onnx_says}, nodes {[node.op_type for node in model.graph.node]}")
    assert (torch_says, onnx_says) == (torch_expected, onnx_expected)
PY
