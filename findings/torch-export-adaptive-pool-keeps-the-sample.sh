#!/usr/bin/env bash
# adaptive_avg_pool2d, exported with dynamic height and width, keeps the windows of the sample image: other sizes give other numbers or another shape.
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

module = torch.nn.AdaptiveAvgPool2d(7).eval()  # as VGG has before its classifier
size = torch.export.Dim("h", min=8, max=512), torch.export.Dim("w", min=8, max=512)
generator = torch.Generator().manual_seed(0)
for sample, shape, expected_shape, expected_wrong in (((33, 47), (64, 64), (7, 7), True), ((28, 28), (56, 56), (14, 14), True), ((28, 28), (28, 28), (7, 7), False)):
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(module, (torch.rand(1, 3, *sample, generator=generator),), dynamo=True, dynamic_shapes=({2: size[0], 3: size[1]},))
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.rand(1, 3, *shape, generator=generator)
    found, true = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]), module(x)
    before = torch.export.export(module, (torch.rand(1, 3, *sample),), dynamic_shapes=({2: size[0], 3: size[1]},)).module()
    assert torch.equal(before(x), true)  # torch.export itself is right
    off = (found - true).abs().max().item() if found.shape == true.shape else None
    print(f"exported with {sample}, input declared {session.get_inputs()[0].shape[2:]}, output {session.get_outputs()[0].shape[2:]}; fed {shape}: PyTorch {tuple(true.shape[2:])}, exported {tuple(found.shape[2:])}, largest difference {off}")
    assert tuple(found.shape[2:]) == expected_shape and (off is None or off > 0.1) == expected_wrong
PY
