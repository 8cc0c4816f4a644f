#!/usr/bin/env bash
# The same tensors and metadata, saved by two processes, are not the same bytes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import hashlib
import subprocess
import sys

import safetensors

print("safetensors", safetensors.__version__)
program = """
import sys
import numpy as np
from safetensors.numpy import save
metadata = {f"key{i}": str(i) for i in range(int(sys.argv[1]))}
sys.stdout.buffer.write(save({"weight": np.zeros(3, np.float32)}, metadata=metadata))
"""
for keys in (12, 1):
    files = [subprocess.run([sys.executable, "-c", program, str(keys)], check=True, capture_output=True).stdout for _ in range(6)]
    different = len({hashlib.sha256(file).hexdigest() for file in files})
    print(f"{keys} metadata keys, 6 processes: {different} different files; one begins {files[0][8:90]!r}")
    assert different == (6 if keys == 12 else 1)
PY
