#!/usr/bin/env bash
# scaled_dot_product_attention takes any number of axes before the tokens; the ONNX exporter takes four in all, and NesT, Twins and Hiera have five, SAM three.
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


class Attention(torch.nn.Module):
    def forward(self, tokens):
        return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


for axes, shape in ((3, (6, 16, 8)), (4, (2, 3, 16, 8)), (5, (2, 4, 3, 16, 8))):
    tokens = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(Attention().eval(), (tokens,), dynamo=True)
    except torch.onnx.OnnxExporterError as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        print(f"{axes} axes {shape}: PyTorch answers {tuple(Attention()(tokens).shape)}, export: {type(error).__name__}, {cause}")
        assert axes != 4 and "only 4D query, key, and value are supported" in str(cause)
        continue
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    apart = float((torch.from_numpy(found) - Attention()(tokens)).abs().max())
    print(f"{axes} axes {shape}: exported, largest difference {apart:.1e}")
    assert axes == 4 and apart < 1e-5
PY
