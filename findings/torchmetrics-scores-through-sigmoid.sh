#!/usr/bin/env bash
# One value outside [0, 1] sends all scores through a float32 sigmoid, or all probabilities through another softmax.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

print("torchmetrics", torchmetrics.__version__)

scores = torch.tensor([20.0, 21.0, 22.0, 40.0, 41.0, 42.0])  # an energy score; every OOD image is above every ID image
is_ood = torch.tensor([0, 0, 0, 1, 1, 1])
auroc, ranked = binary_auroc(scores, is_ood).item(), binary_auroc(scores / 100, is_ood).item()
print("AUROC of perfectly separated scores:", auroc, "and of the same scores divided by 100:", ranked)
assert (auroc, ranked) == (0.5, 1.0)

generator = torch.Generator().manual_seed(0)
probabilities = torch.softmax(4 * torch.randn(1000, 10, generator=generator), 1)
labels = probabilities.argmax(1)  # all right
probabilities[0] = torch.zeros(10)
probabilities[0, labels[0]] = 1.0
before = multiclass_calibration_error(probabilities, labels, 10).item()
mean_of_ten = sum(torch.ones(()) * 0.1 for _ in range(10))  # a sure ensemble of ten, averaged in float32
probabilities[0, labels[0]] = mean_of_ten
after = multiclass_calibration_error(probabilities, labels, 10).item()
print(f"probability of 1 image of 1000: 1 -> {mean_of_ten.item():.9f}; calibration error {before:.3f} -> {after:.3f}")
assert 0.1 < before < 0.3 and after > 0.7
PY
