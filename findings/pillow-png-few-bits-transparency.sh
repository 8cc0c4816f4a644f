#!/usr/bin/env bash
# The transparent grey of a PNG of 2 or 4 bits stays opaque: pixels are scaled to 8 bits, and the number in tRNS is not.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 pypng==0.20220715.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import io

import numpy as np
import PIL
import png
from PIL import Image

print("Pillow", PIL.__version__, "pypng", png.__version__)
found = {}
for bits in (1, 2, 4, 8):
    clear = 2**bits - 1
    stream = io.BytesIO()
    png.Writer(4, 1, greyscale=True, bitdepth=bits, transparent=clear).write(stream, [[0, clear, 0, clear]])
    _, _, rows, _ = png.Reader(bytes=stream.getvalue()).asRGBA8()
    expected = np.array(list(rows)).reshape(4, 4)[:, 3].tolist()
    with Image.open(io.BytesIO(stream.getvalue())) as image:
        alpha = np.asarray(image.convert("RGBA"))[0, :, 3].tolist()
    found[bits] = alpha == expected
    print(f"{bits} bits, transparent {clear}: alpha {alpha}, pypng {expected}")
assert found == {1: True, 2: False, 4: False, 8: True}, found
PY
