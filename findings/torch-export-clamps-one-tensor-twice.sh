#!/usr/bin/env bash
# x.clamp(-1, 1) + x.clamp(-2, 2), exported with torch.onnx.export and its default optimisation, is a graph without the bounds of the first clamp: no runtime loads it.
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

import onnx
import onnxruntime
import torch

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
print("torch", torch.__version__.split("+")[0], "onnxruntime", onnxruntime.__version__)


class Once(torch.nn.Module):
    def forward(self, x):
        return x.clamp(-1, 1) + 1


class Twice(torch.nn.Module):
    def forward(self, x):
        return x.clamp(-1, 1) + x.clamp(-2, 2)


x = torch.tensor([[-3.0, -1.5, 0.5, 1.5, 3.0]])
for module, optimize, expected in ((Once(), True, None), (Twice(), False, None), (Twice(), True, "x_min_1")):
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(module.eval(), (x,), dynamo=True, optimize=optimize)
    graph = program.model_proto.graph
    given = {value.name for value in (*graph.input, *graph.initializer)} | {name for node in graph.node for name in node.output}
    lost = [name for node in graph.node for name in node.input if name and name not in given]
    clips = [(node.op_type, *node.input) for node in graph.node if node.op_type == "Clip"]
    try:
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        said = f"answers {'as PyTorch' if torch.equal(torch.from_numpy(found), module(x)) else 'otherwise'}"
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).split('Invalid model. ')[-1][:90]}"
    try:
        onnx.checker.check_model(program.model_proto)
        checked = "passes"
    except onnx.checker.ValidationError as error:
        checked = "refuses: " + str(error).splitlines()[0][:90]
    print(f"{type(module).__name__}, optimize={optimize}: {clips}; nothing gives {lost or 'none'}; onnx.checker {checked}; ONNX Runtime: {said}")
    assert (lost[:1] == [expected] and "Node input" in said) if expected else (not lost and said == "answers as PyTorch")
PY
