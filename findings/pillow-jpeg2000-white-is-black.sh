#!/usr/bin/env bash
# Pillow reads the white of a JPEG 2000 of more than 8 bits as black: it rounds up to 256, which a byte holds as 0.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 imagecodecs==2026.3.6 numpy==2.4.6 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import io

import imagecodecs
import numpy as np
from PIL import Image
import PIL

print("Pillow", PIL.__version__, "OpenJPEG in imagecodecs", imagecodecs.jpeg2k_version())
for bits in (8, 10, 12):
    most = (1 << bits) - 1
    grey = np.full((16, 16, 3), most, np.uint8 if bits == 8 else np.uint16)
    grey[:8] = most // 2
    data = imagecodecs.jpeg2k_encode(grey, bitspersample=bits, level=0, reversible=True)
    # Lossless: its own decoder gives every number back.
    assert (imagecodecs.jpeg2k_decode(data) == grey).all()
    read = np.asarray(Image.open(io.BytesIO(data)))
    print(f"{bits} bits: half of {most} is read as {read[0, 0]}, {most} (white) as {read[-1, 0]}")
    assert (read[-1] == (255 if bits == 8 else 0)).all()
    assert abs(int(read[0, 0, 0]) - 127) <= 1
PY
