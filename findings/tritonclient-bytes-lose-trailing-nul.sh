#!/usr/bin/env bash
# An image handed to tritonclient in a plain numpy bytes array loses the zero bytes at its end.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 tritonclient[grpc,http]==2.73.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import struct

import numpy as np
import tritonclient.grpc
import tritonclient.http

print("tritonclient", md.version("tritonclient"), "numpy", np.__version__)

# A valid 4 x 4 BMP, black: its pixels are zeros up to the end of the file.
image = b"BM" + struct.pack("<IHHI", 54 + 48, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 24, 0, 48, 0, 0, 0, 0) + bytes(48)

for client in (tritonclient.grpc, tritonclient.http):
    for array, arrives in ((np.array([image]), 35), (np.array([image], dtype=object), len(image))):
        tensor = client.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(array)
        raw = tensor._raw_content if client is tritonclient.grpc else tensor._raw_data
        (sent,) = struct.unpack("<I", raw[:4])
        print(f"{client.__name__}, dtype {array.dtype}: {len(image)} bytes given, {sent} sent")
        assert sent == len(raw) - 4 == arrives
PY
