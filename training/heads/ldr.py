"""LDR: the Loss-guided Diversification Regularizer, for M two-layer heads over shared features.

Paper: ensemble diversification for OOD detection (LDR + PDS). For the active members I of a mini-batch,

    L = mean_{m in I} CE(f^m, y) + lambda * mean_n[ stopgrad(alpha_n) * mean_{pairs of I} G(p^m(x_n), p^l(x_n)) ]   (6)
    alpha_n = CE(mean_m f^m(x_n), y_n) / (mean_b CE(mean_m f^m(x_b), y_b))^2                                       (4)
    G(p, r) = -log( p_k (1 - r_k) + r_k (1 - p_k) ),  k = argmax_c p_c                                       (A2D)

Deviations, and why: the text divides the sum over M(M-1)/2 pairs by M(M-1); we take the mean over pairs, as the
code for |I| = 2 does. The denominator of alpha is floored at 1: on a small training set the mean CE goes to 0, alpha
to infinity, and disagreement then destroys the classifier. Each step draws a random pair (|I| = 2, the paper's
stochastic sum), so a step costs the same whatever M is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ALPHA_FLOOR = 1.0
EPSILON = 1e-7


class Ensemble(nn.Module):
    """M independently initialised heads `D -> hidden -> C` with ReLU.

    Each member's weights are parameters of their own, so that an optimiser skips the members a step left out.
    """

    def __init__(self, *, members: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.members = members
        self.weight1 = _parameters(members, (width, hidden), bound=width**-0.5)
        self.bias1 = _parameters(members, (1, hidden), bound=0.0)
        self.weight2 = _parameters(members, (hidden, classes), bound=hidden**-0.5)
        self.bias2 = _parameters(members, (1, classes), bound=0.0)

    def forward(self, features: Tensor, active: list[int] | None = None) -> Tensor:
        """Logits `[|I|, B, C]` of features `[B, D]`, for the `active` members or all, in one batched product."""
        w1, b1, w2, b2 = self.stacked(active)
        hidden = functional.relu(torch.baddbmm(b1, features.expand(len(w1), -1, -1), w1))
        return torch.baddbmm(b2, hidden, w2)

    def stacked(self, active: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`weight1 [I, D, H]`, `bias1 [I, 1, H]`, `weight2 [I, H, C]`, `bias2 [I, 1, C]`."""
        groups = (self.weight1, self.bias1, self.weight2, self.bias2)
        if active is None:
            return tuple(torch.stack(list(group)) for group in groups)  # type: ignore[return-value]
        return tuple(torch.stack([group[m] for m in active]) for group in groups)  # type: ignore[return-value]


def _parameters(count: int, shape: tuple[int, ...], *, bound: float) -> nn.ParameterList:
    stack = torch.empty(count, *shape).uniform_(-bound, bound) if bound else torch.zeros(count, *shape)
    return nn.ParameterList([nn.Parameter(value.clone()) for value in stack])


def alpha(logits: Tensor, targets: Tensor, *, floor: float = ALPHA_FLOOR) -> Tensor:
    """Eq. 4 with the batch mean floored: `[B]`, from active logits `[I, B, C]`, without gradient.

    With `floor=0` its batch mean is 1 / (mean cross-entropy).
    """
    with torch.no_grad():
        losses = functional.cross_entropy(logits.mean(0), targets, reduction="none")
        return losses / losses.mean().clamp_min(floor).square()


def a2d(member: Tensor, reference: Tensor) -> Tensor:
    """G for probabilities `[B, C]` of a member and a reference: `[B]`, small when they disagree on the member's class.

    The gradient flows into both. For p = r = f it is -log(2 f (1 - f)), at least log 2.
    """
    top = member.argmax(-1, keepdim=True)
    p = member.gather(-1, top).squeeze(-1)
    r = reference.gather(-1, top).squeeze(-1)
    return -(p * (1.0 - r) + r * (1.0 - p)).clamp_min(EPSILON).log()


def a2d_pairs(probabilities: Tensor) -> Tensor:
    """Mean of G over the pairs of members, `[B]`, from probabilities `[I, B, C]` of at least 2 members."""
    first, second = torch.triu_indices(len(probabilities), len(probabilities), offset=1).unbind()
    pairs = a2d(probabilities[first].flatten(0, 1), probabilities[second].flatten(0, 1))
    return pairs.view(len(first), -1).mean(0)


def ldr_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    disagreement: float,
    label_smoothing: float = 0.0,
    floor: float = ALPHA_FLOOR,
) -> Tensor:
    """Eq. 6 for active logits `[I, B, C]`: a scalar. `disagreement` is lambda."""
    active = logits.shape[0]
    main = functional.cross_entropy(logits.flatten(0, 1), targets.repeat(active), label_smoothing=label_smoothing)
    if disagreement == 0 or active < 2:
        return main
    pairs = a2d_pairs(logits.softmax(-1))
    return main + disagreement * (alpha(logits, targets, floor=floor) * pairs).mean()
