#!/usr/bin/env bash
# After draft() the image covers up to 7 pixels that the file does not have; without its second answer every later crop and resize is shifted.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import io

import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__)


def compare(side, goal):
    y, x = np.mgrid[0:side, 0:side]
    wave = 128 + 100 * np.sin(x / 20) * np.sin(y / 24)
    file = io.BytesIO()
    Image.fromarray(np.stack([wave] * 3, -1).astype(np.uint8)).save(file, "JPEG", quality=97)
    exact = Image.open(io.BytesIO(file.getvalue())).resize((goal, goal), Image.Resampling.BICUBIC)
    image = Image.open(io.BytesIO(file.getvalue()))
    _, box = image.draft(None, (2 * goal, 2 * goal))
    found = []
    for area in (None, box):
        small = image.resize((goal, goal), Image.Resampling.BICUBIC, box=area)
        found.append(float(np.abs(np.asarray(small, dtype=float) - np.asarray(exact, dtype=float)).mean()))
    return image.size, box, found


for side, size, reach, stretched in ((2048, 256, 256.0, False), (2049, 257, 256.125, True)):
    seen, box, (without, with_box) = compare(side, 128)
    print(f"{side} pixels wide: draft decodes to {seen}, of which {box} is the picture; mean difference after a resize without the box {without:.2f}, with it {with_box:.2f} grey levels")
    assert seen == (size, size) and box == (0, 0, reach, reach)
    assert with_box < 1 and (without > 3 * with_box) == stretched
PY
