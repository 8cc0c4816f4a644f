"""Learner collusion: joint training of an ensemble, and how to tell that its members collude.

Paper: Joint Training of Deep Ensembles Fails Due to Learner Collusion. For members f_j with M members and a loss L,

    ERR_bar = mean_j L(f_j, y),  ERR = L(f_bar, y),  DIV = ERR_bar - ERR                          (Definition 4.1)
    L^beta = ERR_bar - beta * DIV = (1 - beta) ERR_bar + beta ERR                                  (Sec. 5)

beta = 0 is independent training, beta = 1 joint training; beyond 1 the objective has no lower bound. For
classification f_bar is the mean of the logits (score averaging) or of the probabilities.

Score averaging: DIV = mean_j KL(q_bar || p_j) with q_bar = softmax(mean logits), whatever the label is. Probability
averaging: DIV = mean_j log(p_bar_y / p_jy). Both are at least 0.

Colluding members shift their outputs in opposite directions: DIV grows and the ensemble does not notice. The paper's
signs (Sec. 6) are measured by `diagnose`: DIV beyond the ensemble's own loss; diversity that a constant correction of
each member removes; a loss that explodes when members are dropped; members far worse than the ensemble; a wider
generalisation gap.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from oodguard.core.collusion import Averaging, CollusionReport
from oodguard.training.heads.scores import mean_log_probabilities

DROPS = (0.2, 0.4, 0.6)
REPEATS = 100

# What separates healthy from colluding ensembles in our measurements, with room on both sides; see docs/RESULTS.md.
# A gap in accuracy alone is no sign: members that are weak but stand on their own have one too.
MAX_CODEPENDENCE = 0.25
MAX_RELATIVE_DIVERSITY = 1.0
# Joint training with beta = 1: 0.32 to 0.65 on digits (M = 2 to 10), 0.097 and more in eight of nine trials on produce.
# Members pushed apart on outliers (A2D): at most 0.08; trained on their own, weak, overfitted or diversified: 0.02.
MAX_BIAS = 0.09
# Below either, members say the same: in nats, and as a share of the ensemble's loss.
MIN_DIVERSITY = 0.01
MIN_RELATIVE_DIVERSITY = 0.01


def log_probabilities(logits: Tensor, averaging: Averaging) -> Tensor:
    """The ensemble's log-probabilities `[B, C]` from members' logits `[M, B, C]`."""
    if averaging == "scores":
        return logits.mean(0).log_softmax(-1)
    return mean_log_probabilities(logits)


def ensemble_loss(logits: Tensor, targets: Tensor, averaging: Averaging) -> Tensor:
    """ERR: the cross-entropy of the averaged prediction, a scalar."""
    return functional.nll_loss(log_probabilities(logits, averaging), targets)


def member_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """ERR_bar: the members' mean cross-entropy, a scalar."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.repeat(len(logits)))


def diversity(logits: Tensor, targets: Tensor, averaging: Averaging) -> Tensor:
    """DIV = ERR_bar - ERR, at least 0, in nats."""
    return member_loss(logits, targets) - ensemble_loss(logits, targets, averaging)


def joint_loss(logits: Tensor, targets: Tensor, *, beta: float, averaging: Averaging = "scores") -> Tensor:
    """L^beta for members' logits `[M, B, C]`: a scalar. Raises `ValueError` for beta > 1, which has no lower bound."""
    if beta > 1:
        raise ValueError(f"beta must be at most 1 (the objective has no lower bound beyond it); got {beta:g}")
    return (1.0 - beta) * member_loss(logits, targets) + beta * ensemble_loss(logits, targets, averaging)


def debias(outputs: Tensor) -> Tensor:
    """`f_j - b_j` with b_j = mean_i (f_j(x_i) - f_bar(x_i)), for outputs `[M, N, ...]` (paper, Sec. 6.1).

    The mean over members, and so the score-averaged ensemble, does not change. For squared loss, DIV falls by
    mean_j b_j^2.
    """
    bias = (outputs - outputs.mean(0)).mean(1, keepdim=True)
    return outputs - bias


@torch.no_grad()
def codependence(logits: Tensor, targets: Tensor, share: float, averaging: Averaging, *, seed: int = 0) -> float:
    """Relative rise of ERR when a random `share` of the members is dropped, mean over 100 draws (paper, Fig. 4)."""
    members = len(logits)
    kept = max(members - max(round(share * members), 1), 1)
    generator = torch.Generator().manual_seed(seed)
    whole = ensemble_loss(logits, targets, averaging)
    rises = []
    for _ in range(REPEATS):
        chosen = torch.randperm(members, generator=generator)[:kept]
        rises.append(ensemble_loss(logits[chosen], targets, averaging) - whole)
    return float(torch.stack(rises).mean() / whole.clamp_min(1e-6))


@torch.no_grad()
def diagnose(
    logits: Tensor,
    targets: Tensor,
    *,
    averaging: Averaging = "probabilities",
    training: tuple[Tensor, Tensor] | None = None,
) -> CollusionReport:
    """Whether members collude, from their logits `[M, N, C]` on held-out images; `training`: the same on training ones.

    Raises `ValueError` for fewer than 2 members or no images.
    """
    if len(logits) < 2 or not len(targets):
        raise ValueError("a diagnosis needs at least 2 members and 1 image")
    logits = logits.double()
    err, err_bar = ensemble_loss(logits, targets, averaging), member_loss(logits, targets)
    div = err_bar - err
    # Bias is taken off log-probabilities: a logit's constant over classes means nothing.
    logs = logits.log_softmax(-1)
    div_debiased = diversity(debias(logs), targets, "scores")
    div_scores = diversity(logs, targets, "scores")
    accuracies = (logits.argmax(-1) == targets).double().mean(1)
    accuracy = float((log_probabilities(logits, averaging).argmax(-1) == targets).double().mean())
    drops = {f"{share:g}": codependence(logits, targets, share, averaging) for share in DROPS}
    gap = None
    if training is not None:
        gap = float(err - ensemble_loss(training[0].double(), training[1], averaging))
    relative = float(div / err.clamp_min(1e-6))
    biased = float((div_scores - div_debiased) / err.clamp_min(1e-6))
    signs = _signs(drops["0.4"], accuracy - float(accuracies.mean()), relative, biased)
    return CollusionReport(
        members=len(logits),
        averaging=averaging,
        ensemble_loss=float(err),
        member_loss=float(err_bar),
        diversity=float(div),
        relative_diversity=relative,
        bias_share=float(1.0 - div_debiased / div_scores.clamp_min(1e-9)),
        codependence=drops,
        ensemble_accuracy=accuracy,
        member_accuracy=tuple(accuracies.tolist()),
        generalisation_gap=gap,
        colluding=bool(signs),
        verdict=_verdict(signs, float(div), float(err)),
    )


def _signs(codependent: float, accuracy_gap: float, relative: float, biased: float) -> list[str]:
    signs = []
    if codependent > MAX_CODEPENDENCE:
        signs.append(f"dropping 40 % of the members raises the loss by {codependent:.0%}")
    if relative > MAX_RELATIVE_DIVERSITY:
        signs.append(f"diversity is {relative:.1f} times the ensemble's loss")
    if biased > MAX_BIAS:
        signs.append(f"constant biases that cancel out make up {biased:.1f} times the ensemble's loss")
    if signs and accuracy_gap > 0:
        signs.append(f"members are {100 * accuracy_gap:.0f} points less accurate than the ensemble")
    return signs


def members_agree(diversity: float, loss: float) -> bool:
    """Whether members of an ensemble say so much the same that averaging them is worth next to nothing."""
    return diversity < MIN_DIVERSITY or diversity < MIN_RELATIVE_DIVERSITY * loss


def _verdict(signs: list[str], diversity: float, loss: float) -> str:
    if signs:
        return "colluding: " + "; ".join(signs)
    if members_agree(diversity, loss):
        return (
            f"healthy, but the members agree: their diversity is {diversity:.4f} nats against a loss of "
            f"{loss:.4f}, so averaging them adds next to nothing"
        )
    return "healthy: the members stand on their own"
