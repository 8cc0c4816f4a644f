"""Temperature scaling: one number that makes a classifier's confidence match its accuracy.

Guo et al. 2017: `T = argmin_T CE(f / T, y)` on calibration images. The score is `1 - max_c softmax(f / T)`; ID scores
higher in the source. T changes no label.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """T in [0.05, 20] for the logits `[N, C]` of calibration images; log T is searched."""

    def loss(log_t: float) -> float:
        return float(functional.cross_entropy(logits.double() / torch.tensor(log_t).exp(), targets))

    low, high = torch.tensor([LOWEST, HIGHEST]).log().tolist()
    return float(torch.tensor(minimize_scalar(loss, bounds=(low, high), method="bounded").x).exp())
