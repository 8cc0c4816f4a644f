"""THE definitions of every served OOD score, as traceable torch functions. **Higher = more OOD, everywhere.**

Shapes: logits `[M, B, C]` (M members, B images, C classes), anchored logits `[B, K, C]` (K anchors), features
`[B, D]`; every score returns `[B]`. Nothing here has parameters: a function of numbers can be checked by hand.
"""

from __future__ import annotations

import math

from torch import Tensor


def pds(logits: Tensor) -> Tensor:
    """Predictive Diversity Score: `(1/C) sum_c max_m p_c^m`, in [1/C, min(M, C)/C].

    LDR paper, Eq. 10; same sign. Identical members give exactly 1/C, one-hot members give (number of distinct
    votes)/C, and for M = 2 it is (1 + total variation)/C.
    """
    return logits.softmax(-1).amax(0).mean(-1)


def average_energy(logits: Tensor) -> Tensor:
    """Mean free energy of the members: `-(1/M) sum_m logsumexp_c f_c^m`, in nats.

    LDR paper, appendix (average energy), after Liu et al. 2020, who score ID higher; ours keeps the energy itself.
    """
    return energy(logits).mean(0)


def ensemble_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction, `H[(1/M) sum_m p^m]`, in nats, in [0, log C]. LDR paper, appendix."""
    log_mean = mean_log_probabilities(logits)
    return -(log_mean.exp() * log_mean).sum(-1)


def one_minus_bma(logits: Tensor) -> Tensor:
    """`1 - max_c (1/M) sum_m p_c^m`, in [0, 1 - 1/C].

    LDR paper, Eq. 9 (Bayesian Model Averaging), where ID scores higher; ours is the complement.
    """
    return 1.0 - mean_probabilities(logits).amax(-1)


def mean_probabilities(logits: Tensor) -> Tensor:
    """The ensemble's prediction `(1/M) sum_m softmax(f^m)`, `[B, C]`."""
    return logits.softmax(-1).mean(0)


def mean_log_probabilities(logits: Tensor) -> Tensor:
    """`log((1/M) sum_m softmax(f^m))` without underflow, `[B, C]`."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(logits.shape[0])


def energy(logits: Tensor) -> Tensor:
    """Free energy `E = -logsumexp_c f_c` of one classifier's logits `[B, C]`, in nats. Liu et al. 2020; GReg, Sec. 3.2.

    E of C zero logits is -log C, and adding a constant to all logits takes it off E.
    """
    return -logits.logsumexp(-1)


def classifier_scores(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, entropy and `1 - max_c p_c` of a classifier's own logits `[B, C]`, `[B]` each; p is their softmax.

    E = -logsumexp_c f_c in nats (Liu et al. 2020); H[p] in nats, in [0, log C]; the last in [0, 1 - 1/C] (Hendrycks &
    Gimpel 2017, who score ID higher). They share one logsumexp, since small graphs pay for every node.
    """
    total = logits.logsumexp(-1, keepdim=True)
    log_p = logits - total
    p = log_p.exp()
    return -total.squeeze(-1), -(p * log_p).sum(-1), 1.0 - p.amax(-1)


def anchor_temperature(anchored: Tensor, *, reduce: str = "mean") -> Tensor:
    """`1 + exp(tau)`, `[B, 1]`, with tau the spread over anchors of the sigmoid logits.

    AMP paper, Eq. 1: tau(x) = sum_c std_k sigmoid(f_c([a_k, x - a_k])), and `1 + exp(tau)` as the divisor for small
    data sets. `reduce="sum"` is that text; with C = 100 it overflows and collapses the score to log C. The default
    `"mean"` averages over classes, as the authors' own code does. The standard deviation is the unbiased one.
    Raises `ValueError` for another `reduce`.
    """
    spread = anchored.sigmoid().std(dim=1)
    if reduce == "mean":
        tau = spread.mean(-1, keepdim=True)
    elif reduce == "sum":
        tau = spread.sum(-1, keepdim=True)
    else:
        raise ValueError(f"reduce must be 'mean' or 'sum', not {reduce!r}")
    return 1.0 + tau.exp()


def amp(anchored: Tensor, *, reduce: str = "mean") -> Tensor:
    """Anchor Marginalized Prediction score: `mean_c H_c - logsumexp_c H_c`, at most -log C.

    AMP paper, Eq. 2, with H = mean over anchors / `anchor_temperature`. The paper's
    S = -(1/C) sum_c log softmax(H)_c = logsumexp(H) - mean(H) >= log C is **higher for ID**; ours is -S. Uniform
    logits give -log C.
    """
    calibrated = anchored.mean(1) / anchor_temperature(anchored, reduce=reduce)
    return calibrated.mean(-1) - calibrated.logsumexp(-1)


def ice(heights: Tensor) -> Tensor:
    """`-max_i h_i` for ICE heights `h [B, C] <= 0`: the learned squared distance to the nearest class centre.

    ICE paper, Eq. 0.11 and the detector exp(max_i h_i), which is higher for ID. The rank is the same and a far
    image does not underflow to 0.
    """
    return -heights.amax(-1)


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """`||l_i - r_j||^2`, `[B, N]`, by the expanded square (one matrix product), clamped at 0."""
    cross = left @ right.T
    return (left.square().sum(-1, keepdim=True) - 2.0 * cross + right.square().sum(-1)).clamp_min(0.0)


def knn(distances: Tensor, k: int) -> Tensor:
    """Distance to the k-th nearest bank entry, from squared distances `[B, N]`. Sun et al. 2022; same sign."""
    return distances.topk(k, dim=-1, largest=False).values[..., -1].sqrt()


def mahalanobis(distances: Tensor) -> Tensor:
    """`min_c sqrt(d_c^2)` from squared Mahalanobis distances to the class means, `[B, C]`.

    Lee et al. 2018 use -min_c d_c^2 (higher for ID); ours is the distance itself, which ranks inversely.
    """
    return distances.amin(-1).sqrt()
