#!/usr/bin/env bash
# A big-endian TIFF of floats or signed numbers, once compressed, is read with its bytes swapped; uncompressed it is right.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

print("Pillow", PIL.__version__, "tifffile", tifffile.__version__)
assert sys.byteorder == "little", "a little-endian machine is needed"
ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
right = {}
for name, numbers in (("float32", ramp), ("int16", (ramp * 4095 - 1024).astype(np.int16)), ("uint16", (ramp * 65535).astype(np.uint16))):
    for order in ("<", ">"):
        for compression in (None, "zlib"):
            tifffile.imwrite("a.tif", numbers, byteorder=order, compression=compression, photometric="minisblack")
            assert np.array_equal(tifffile.imread("a.tif"), numbers)
            with Image.open("a.tif") as image:
                found = np.asarray(image)
            right[name, order, compression] = bool(np.array_equal(found.astype(numbers.dtype), numbers))
            print(f"{name:8} {'big' if order == '>' else 'little'}-endian {compression or 'uncompressed':12} "
                  f"{'right' if right[name, order, compression] else f'wrong: {found.min():.3g} to {found.max():.3g}'}")
wrong = {key for key, value in right.items() if not value}
assert wrong == {("float32", ">", "zlib"), ("int16", ">", "zlib")}, wrong
PY
