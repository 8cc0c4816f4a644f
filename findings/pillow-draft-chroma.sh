#!/usr/bin/env bash
# A JPEG with 4:2:2 chroma, decoded at 1/8 by draft() or thumbnail(), gets blocky colours; 4:2:0 and 4:4:4 do not.
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
side = 1024
y, x = np.mgrid[0:side, 0:side]
smooth = np.stack([128 + 100 * np.sin(x / 29), np.full_like(x, 128.0), 128 - 100 * np.sin(x / 29)], -1).astype(np.uint8)

errors = {}
for name, subsampling in (("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)):
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=97, subsampling=subsampling)
    exact = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB").reduce(8), dtype=float)
    reduced = Image.open(io.BytesIO(file.getvalue()))
    reduced.draft(None, (side // 8, side // 8))
    small = Image.open(io.BytesIO(file.getvalue()))
    small.thumbnail((side // 8, side // 8), Image.Resampling.BOX, reducing_gap=1.0)
    assert reduced.size == small.size == (side // 8, side // 8)
    errors[name] = [float(np.abs(np.asarray(image, dtype=float) - exact).mean()) for image in (reduced, small)]
    print(f"{name}: mean difference from the full decode, averaged 8 x 8: draft {errors[name][0]:.2f}, thumbnail {errors[name][1]:.2f} grey levels")
assert max(errors["4:4:4"] + errors["4:2:0"]) < 1 and min(errors["4:2:2"]) > 4
PY
