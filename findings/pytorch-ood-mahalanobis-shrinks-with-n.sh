#!/usr/bin/env bash
# Mahalanobis and relative Mahalanobis invert the scatter matrix (a sum), not the covariance (a mean).
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 pytorch-ood==0.4.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import torch

# torchvision's compiled operators may be built for another torch; the package only wants to be imported.
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from pytorch_ood.detector import RMD, Mahalanobis

print("pytorch-ood", md.version("pytorch-ood"))

generator = torch.Generator().manual_seed(0)
labels = torch.arange(2000) % 2
features = torch.randn(2000, 4, generator=generator) + labels[:, None]
query = torch.full((1, 4), 3.0)

for detector in (Mahalanobis, RMD):
    scores = {n: detector(None).fit_features(features[:n], labels[:n]).predict_features(query).item() for n in (200, 2000)}
    print(f"{detector.__name__}, the same query, fitted on n images of the same distribution: {scores}")
    assert 7 < scores[200] / scores[2000] < 13

means = torch.stack([features[labels == label].mean(0) for label in (0, 1)])
centred = features - means[labels]
difference = query - means
half = 0.5 * (difference @ torch.linalg.inv(centred.T @ centred / len(features)) * difference).sum(1).min().item()
print(f"half the squared Mahalanobis distance with the covariance, as documented: {half:.3f}")
score = Mahalanobis(None).fit_features(features, labels).predict_features(query).item()
assert abs(half / score / 2000 - 1) < 0.01
PY
