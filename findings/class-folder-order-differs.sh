#!/usr/bin/env bash
# timm numbers class folders in natural, case-blind order; torchvision and datasets by code point.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31 datasets==5.2.0 pillow==13.0.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6 huggingface_hub==2.4.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import os

os.environ.update(HF_HOME="home", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
import datasets
import torch
from PIL import Image

# torchvision's compiled operators may be built for another torch; only its Python code is used here.
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
import timm.data
import torchvision

print("timm", timm.__version__, "torchvision", torchvision.__version__.split("+")[0], "datasets", datasets.__version__)
for name in ("grade 9", "grade 10", "Reject", "pass"):
    os.makedirs(f"photos/{name}")
    Image.new("RGB", (8, 8)).save(f"photos/{name}/0.png")


def ordered(indices):
    return sorted(indices, key=indices.get)


by_timm = ordered(timm.data.create_dataset("", "photos").reader.class_to_idx)
by_torchvision = ordered(torchvision.datasets.ImageFolder("photos").class_to_idx)
by_datasets = datasets.load_dataset("imagefolder", data_dir="photos")["train"].features["label"].names
print("timm       ", by_timm)
print("torchvision", by_torchvision)
print("datasets   ", by_datasets)
assert by_timm == ["grade 9", "grade 10", "pass", "Reject"]
assert by_torchvision == by_datasets == ["Reject", "grade 10", "grade 9", "pass"]
PY
