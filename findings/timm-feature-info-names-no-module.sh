#!/usr/bin/env bash
# timm's feature_info of Twins, MViTv2, Gemma 4 ViT, HRNet and MobileNetV5 names modules that the model does not have; hooks by it end in a KeyError.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check timm==1.0.31 torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import warnings

import torch

# torchvision's compiled operators may be built for another torch; only its Python code is used here.
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm

warnings.simplefilter("ignore")
print("timm", timm.__version__, "torch", torch.__version__.split("+")[0])
absent = {
    "twins_svt_small": ["block.0", "block.1", "block.2", "block.3"],
    "mvitv2_tiny": ["block.0", "block.1", "block.2", "block.3"],
    "gemma4_vit_167m": [f"blocks.{i}" for i in range(16)],
    "hrnet_w18_small": ["stem", "stage1"],
    "mobilenetv5_base": ["bn1"],
    "resnet18": [],
}
for name, expected in absent.items():
    with torch.device("meta"):
        model = timm.create_model(name)
    modules = {path for path, _ in model.named_modules()}
    listed = [level["module"] for level in model.feature_info]
    missing = [path for path in listed if path not in modules]
    try:
        with torch.device("meta"):
            timm.create_model(name, features_only=True, feature_cls="hook")
        hooked = "features by hooks"
    except KeyError as error:
        hooked = f"KeyError {error}"
    print(f"{name}: feature_info lists {', '.join(listed[:4])}; no such module: {', '.join(missing[:4]) or 'none is missing'}; feature_cls='hook': {hooked}")
    assert missing == expected and hooked.startswith("KeyError") == bool(expected)
PY
