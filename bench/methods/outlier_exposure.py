"""Outlier exposure (OE): the loss asks for a uniform prediction on auxiliary outliers.

Hendrycks, Mazeika & Dietterich 2019: `CE(f(x), y) + w * mean_aux CE(f(x'), uniform)`, w = 0.5, where

    CE(f, uniform) = logsumexp_c f_c - mean_c f_c >= log C.
"""

from __future__ import annotations

from torch import Tensor

WEIGHT = 0.5


def uniform_loss(logits: Tensor) -> Tensor:
    """Cross-entropy to the uniform distribution of logits `[O, C]`: a scalar, log C for equal logits."""
    return (logits.logsumexp(-1) - logits.mean(-1)).mean()
