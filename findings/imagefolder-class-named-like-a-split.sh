#!/usr/bin/env bash
# Class folders: a class whose name holds "test" as a word (or train, dev, eval ...) is all that is loaded.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6 huggingface_hub==2.4.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import os

os.environ.update(HF_HOME="home", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
import datasets
from PIL import Image

print("datasets", datasets.__version__)


def load(root, classes):
    for name in classes:
        os.makedirs(f"{root}/{name}")
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(f"{root}/{name}/{number}.png")
    found = datasets.load_dataset("imagefolder", data_dir=root)
    return {split: (len(rows), "label" in rows.features) for split, rows in found.items()}


for root, classes, expected in (
    ("plain", ["beaker", "flask"], {"train": (6, True)}),
    ("word", ["beaker", "flask", "test tube"], {"test": (3, False)}),
    ("dev", ["sensor", "dev_board"], {"validation": (3, False)}),
    ("glued", ["beaker", "testtube"], {"train": (6, True)}),
):
    seen = load(root, classes)
    print(f"{classes}: {{split: (images, has labels)}} = {seen}")
    assert seen == expected
PY
