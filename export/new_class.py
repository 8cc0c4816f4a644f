"""The heads of a guard with one more class, from a few photos of it on the frozen feature. Nothing is trained anew.

A last layer gives class c the logit f_c(h) = w_c h + b_c of its hidden vector h. The new row v = (w, b) alone is
fitted; the old rows stay, so the old logits are the same to the bit. Against old classes whose logits are fixed, the
new class has the probability

    p(h) = sigmoid(w h + b - logsumexp_c f_c(h)),

so the row is the minimum of a convex function, found by Newton's steps,

    sum_i s_i CE(t_i, p(h_i)) + sum_j (v_j - m_j)^2 / (2 (k sigma_j)^2).

The prior is measured: m and sigma are mean and deviation of the rows that training gave the old classes (empirical
Bayes), one deviation for all weights and one for the bias; k widens it, since the rows of training agree with each
other and a new one has to part from them. Photos of the old classes count 1, those of the new class together as much as
an average old class; targets are smoothed as in training. Imprinted weights (Qi et al. 2018: the mean direction at the
mean length) take half of the old classes' photos, since they know no bias; nearest class means cost five times as much
accuracy (docs/LIFECYCLE.md).

ICE's new centre and the density's new mean are the means of the new photos in their spaces, with the old covariances;
the photos themselves join the bank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from oodguard.export.head_parts import HeadParts, Hidden

Table = npt.NDArray[np.float64]

# k: chosen on classes left out of one training, and measured on those of others (docs/LIFECYCLE.md).
WIDENED = 4.0
MAX_STEPS = 60
# Of the objective, relative: below this a step changes nothing that float32 keeps.
ENOUGH = 1e-10


def with_class(old: HeadParts, known: Hidden, new: Hidden, *, smoothing: float) -> HeadParts:
    """The heads with one more class.

    known: photos of the old classes, that the new class is told from. new: photos of the new class. smoothing: of the
    labels, as in training.
    """
    rows = [
        new_row(known.members[m], new.members[m], old.w2[m], old.b2[m, 0], smoothing=smoothing)
        for m in range(len(old.w2))
    ]
    # The anchors' hidden vectors differ by constants; the row is fitted to their mean, as the score averages them.
    anchored = new_row(
        known.anchored.mean(1), new.anchored.mean(1), old.anchored_w2, old.anchored_b2, smoothing=smoothing
    )
    return replace(
        old,
        w2=_wider(old.w2, np.stack([row[:-1] for row in rows])[:, :, None]),
        b2=_wider(old.b2, np.array([[[row[-1]]] for row in rows])),
        anchored_w2=_wider(old.anchored_w2, anchored[:-1, None]),
        anchored_b2=_wider(old.anchored_b2, anchored[-1:]),
        ice_centres=_longer(old.ice_centres, new.ice.mean(0)[None]),
        class_means=_longer(old.class_means, new.q.mean(0)[None] @ old.whitening),
        bank=_longer(old.bank, new.q),
        bank_residual=_longer(old.bank_residual, new.residual),
    )


def new_row(
    known: npt.NDArray[np.float32],
    new: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    biases: npt.NDArray[np.float32],
    *,
    smoothing: float,
) -> Table:
    """The row `[H + 1]` of a new class, its bias last; the formula is the module's.

    known, new: hidden vectors `[N, H]` and `[n, H]`. weights, biases: of the old classes, `[H, C]` and `[C]`.
    """
    count, classes = len(new), weights.shape[1]
    rows = np.concatenate([weights, biases[None]]).astype(np.float64)
    hidden = np.concatenate([known, new]).astype(np.float64)
    hidden = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
    old = hidden @ rows
    top = old.max(1)
    offset = top + np.log(np.exp(old - top[:, None]).sum(1))
    is_new = np.arange(len(hidden)) >= len(known)
    target = smoothing / (classes + 1) + np.where(is_new, 1.0 - smoothing, 0.0)
    share = np.where(is_new, len(known) / classes / count, 1.0)
    mean = rows.mean(1)
    spread = np.append(np.full(len(weights), rows[:-1].var(1).mean()), rows[-1].var())
    precision = 1.0 / (WIDENED**2 * np.maximum(spread, 1e-6))

    def loss(row: Table) -> float:
        logit = hidden @ row - offset
        return float(share @ (np.logaddexp(0.0, logit) - target * logit) + precision @ np.square(row - mean) / 2.0)

    row, value = mean, loss(mean)
    for _ in range(MAX_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(hidden @ row - offset, -500, 500)))
        slope = hidden.T @ (share * (p - target)) + precision * (row - mean)
        curvature = (hidden * (share * p * (1.0 - p))[:, None]).T @ hidden + np.diag(precision)
        step, length = np.linalg.solve(curvature, slope), 1.0
        while loss(row - length * step) > value and length > 1e-9:
            length /= 2.0
        row = row - length * step
        before, value = value, loss(row)
        if before - value <= ENOUGH * max(abs(before), 1.0):
            break
    return np.asarray(row, dtype=np.float64)


def _wider(old: npt.NDArray[np.float32], new: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return np.concatenate([old, new.astype(np.float32)], axis=-1)


def _longer(old: npt.NDArray[np.float32], new: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return np.concatenate([old, new.astype(np.float32)])
