"""Scores of one classifier's logits: the softmax's and the logits' maximum.

Hendrycks & Gimpel 2017 and Hendrycks et al. 2022, who both score ID higher; ours are the complement and the negative.
"""

from __future__ import annotations

from torch import Tensor


def max_softmax(logits: Tensor) -> Tensor:
    """`1 - max_c p_c`, `[B]`, of logits `[B, C]`."""
    return 1.0 - logits.softmax(-1).amax(-1)


def max_logit(logits: Tensor) -> Tensor:
    """`-max_c f_c`, `[B]`, of logits `[B, C]`."""
    return -logits.amax(-1)
