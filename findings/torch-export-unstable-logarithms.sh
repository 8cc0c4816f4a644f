#!/usr/bin/env bash
# Functions that PyTorch computes safely are exported as their textbook formula, and are infinite at ordinary logits.
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


class Wrap(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(function, x, dynamo):
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(Wrap(function), (x,), None if dynamo else file, dynamo=dynamo)
    model = program.model_proto.SerializeToString() if dynamo else file.getvalue()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].ravel().tolist()


inf = float("inf")
x = torch.tensor([-110.0, 0.0, 110.0])
for name, function, expected in (
    ("logsigmoid", F.logsigmoid, {0: -inf}),
    ("binary_cross_entropy_with_logits", lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(3), reduction="none"), {0: inf}),
    ("logaddexp", lambda x: torch.logaddexp(x, x), {0: -inf, 2: inf}),
    ("logcumsumexp", lambda x: x.logcumsumexp(0), {0: -inf, 1: -inf}),
):
    torch_says, onnx_says = function(x).tolist(), exported(function, x, dynamo=True)
    print(f"{name}({x.tolist()}): PyTorch {torch_says}, exported {onnx_says}")
    assert all(abs(value) < 120 for value in torch_says)
    assert {i: value for i, value in enumerate(onnx_says) if abs(value) == inf} == expected
old = exported(F.logsigmoid, x, dynamo=False)
print("the older exporter (dynamo=False), logsigmoid:", old)
assert old[0] == -inf
for name, function in (("softplus", F.softplus), ("logsumexp", lambda x: torch.logsumexp(torch.stack([x, x]), 0))):
    onnx_says = exported(function, x, dynamo=True)
    print(f"for comparison {name}: exported {onnx_says}")
    assert all(abs(value) < 120 for value in onnx_says)
PY
