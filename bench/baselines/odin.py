"""ODIN: a softmax made nearly linear by a high temperature, after a small step that makes the input look more certain.

Liang, Li & Srikant 2018. With T = 1,000 and eps = 0.0014 (in units of the normalised input),

    x' = x + eps * sign(grad_x log max_c softmax(f(x) / T)),   score = 1 - max_c softmax(f(x') / T)

where the source scores ID higher. Deviation: T and eps are the paper's CIFAR values; it tunes them on OOD data, which
we never do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TEMPERATURE = 1000.0
STEP = 0.0014


def odin(classify: Callable[[Tensor], Tensor], x: Tensor, *, unit: float = 1.0) -> Tensor:
    """The score `[B]` of inputs `[B, ...]` whose standard deviation is `unit`; `classify` gives logits `[B, C]`."""
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        certain = (classify(start) / TEMPERATURE).log_softmax(-1).amax(-1).sum()
        (gradient,) = torch.autograd.grad(certain, start)
    with torch.no_grad():
        moved = classify(x + STEP * unit * gradient.sign())
        # In double precision: at T = 1,000 the softmax hardly leaves 1 / C.
        return (1.0 - (moved.double() / TEMPERATURE).softmax(-1).amax(-1)).float()
