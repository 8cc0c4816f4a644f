"""The anchored head: AMP's anchoring in feature space.

Paper: Anchor Marginalized Prediction (AMP). The network sees [c, x - c] for an anchor c. Training draws one anchor a
sample from the batch; inference averages over K fixed anchors, and their spread gives the temperature (see
`scores.amp`).

In feature space the first layer is linear in [c, x - c], so with weights (W_c, W_r) its pre-activation is

    W_c c + W_r (x - c) + b = W_r x + (W_c - W_r) c + b

and the anchor's share is a constant once the anchors are fixed: export computes it once, and K anchors cost one
product with x. A hidden layer is needed: with a linear head anchors would only add an offset to the logits.

Deviation: the paper anchors input images and trains the whole network; here the backbone is shared and only the
head is anchored. Its consistency term T(c) becomes the anchor's own augmented view, at the paper's every fifth step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CONSISTENCY_EVERY = 5


class AnchoredHead(nn.Module):
    """`[c, x - c] -> hidden -> C`, with K anchors stored beside the weights so that the score is deterministic."""

    anchors: Tensor

    def __init__(self, *, width: int, hidden: int, classes: int, anchors: int) -> None:
        super().__init__()
        bound = (2 * width) ** -0.5
        self.weight_anchor = nn.Parameter(torch.empty(width, hidden).uniform_(-bound, bound))
        self.weight_residual = nn.Parameter(torch.empty(width, hidden).uniform_(-bound, bound))
        self.bias1 = nn.Parameter(torch.zeros(hidden))
        self.weight2 = nn.Parameter(torch.empty(hidden, classes).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias2 = nn.Parameter(torch.zeros(classes))
        self.register_buffer("anchors", torch.zeros(anchors, width))

    def pairwise(self, anchors: Tensor, residuals: Tensor) -> Tensor:
        """Logits `[B, C]` of explicit pairs [c, r], both `[B, D]`: the training-time form."""
        hidden = anchors @ self.weight_anchor + residuals @ self.weight_residual + self.bias1
        return functional.relu(hidden) @ self.weight2 + self.bias2

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, K, C]` of features `[B, D]` under every stored anchor."""
        constant = self.anchors @ (self.weight_anchor - self.weight_residual) + self.bias1
        hidden = (features @ self.weight_residual).unsqueeze(1) + constant
        return functional.relu(hidden) @ self.weight2 + self.bias2


def anchored_loss(
    head: AnchoredHead,
    features: Tensor,
    other_view: Tensor,
    targets: Tensor,
    *,
    step: int,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy with one random anchor a sample, drawn from the batch.

    Every `CONSISTENCY_EVERY`-th step shows the anchor's other view beside the residual from the anchor itself, so that
    the head learns to trust the residual: the paper's [T(c), x - c].
    """
    order = torch.randperm(len(features))
    anchors = features[order]
    shown = other_view[order] if step % CONSISTENCY_EVERY == 0 else anchors
    logits = head.pairwise(shown, features - anchors)
    return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
