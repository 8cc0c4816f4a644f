#!/usr/bin/env bash
# Triton answers NaN and Infinity as bare words, which no strict JSON reader takes; and one FP16 output costs the whole answer.
set -euo pipefail
tmp=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
python3.11 -m venv venv # the server's Python stub is built for each minor version
venv/bin/pip install --quiet --disable-pip-version-check --no-deps nvidia-pytriton==0.7.0 numpy==1.26.4 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
triton=$tmp/venv/lib/python3.11/site-packages/pytriton/tritonserver
ln -s ../../python_backend_stubs/3.11/triton_python_backend_stub "$triton/backends/python/triton_python_backend_stub"
mkdir -p repository/guard/1
cat > repository/guard/config.pbtxt <<'PBTXT'
backend: "python"
max_batch_size: 4
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "score" data_type: TYPE_FP32 dims: [1] }, { name: "feature" data_type: TYPE_FP16 dims: [1] }]
PBTXT
cat > repository/guard/1/model.py <<'PY'
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        given = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("score", 1e38 * x), pb.Tensor("feature", x.astype(np.float16))]) for x in given]
PY
port=$(venv/bin/python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
env PATH="$tmp/venv/bin:$PATH" LD_LIBRARY_PATH="$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')" \
  "$triton/bin/tritonserver" --model-repository=repository --backend-directory="$triton/backends" --allow-gpu-metrics=false \
  --http-address=127.0.0.1 --http-port="$port" --allow-grpc=false --allow-metrics=false > server.log 2>&1 &
server=$!
PORT=$port venv/bin/python - <<'PY'
import json
import os
import time
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{os.environ['PORT']}/v2"


def fetch(path, body=None):
    try:
        with urllib.request.urlopen(base + path, body and json.dumps(body).encode(), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


for _ in range(400):
    try:
        if fetch("/health/ready")[0] == 200:
            break
    except OSError:
        pass
    time.sleep(0.2)
print("Triton", json.loads(fetch("")[1])["version"])


def strict(text):
    def refuse(word):
        raise ValueError(word)

    try:
        return "JSON" if json.loads(text, parse_constant=refuse) else ""
    except ValueError as word:
        return f"not JSON: {word}"


def ask(value, *outputs):
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    named = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return fetch("/models/guard/infer", {"inputs": [tensor], **named})


for value, expected in ((2, "JSON"), (20, "not JSON: Infinity"), (float("nan"), "not JSON: NaN")):
    status, text = ask(value, "score")
    print(f"score of {value}: {status}, {text[-20:]}, {strict(text)}")
    assert (status, strict(text)) == (200, expected)
status, text = ask(2)
print("no outputs named:", status, text)
assert status == 400 and "FP16" in text
PY
