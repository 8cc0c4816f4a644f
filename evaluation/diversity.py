"""How different an ensemble's members are, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from oodguard.training.metrics import Interval, Share, share

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Votes = npt.NDArray[np.int64]


class Diversity(BaseModel):
    """Ensemble diagnostics on the test images, and, by set, on OOD images too.

    `disagreement[m][l]` is the share of test images that members m and l label differently; `mean_disagreement` its
    mean over pairs, by set. Losses are mean cross-entropies in nats; `ambiguity = member_loss - ensemble_loss`, which
    Jensen's inequality keeps at 0 or above: what averaging the members' probabilities gains.
    `all_right`, `any_right`: test images that every member, or at least one, labels rightly.
    `pds`: quantiles (5, 25, 50, 75, 95 %) of the Predictive Diversity Score by set; `pds_range` is what it can be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[Share, ...]
    disagreement: tuple[tuple[float, ...], ...]
    mean_disagreement: dict[str, float]
    member_loss: float
    ensemble_loss: float
    ambiguity: float
    all_right: Share
    any_right: Share
    pds: dict[str, tuple[float, ...]]
    pds_range: Interval


def diversity(
    votes: Mapping[str, Votes],
    targets: npt.NDArray[np.int64],
    losses: npt.NDArray[np.float64],
    pds: Mapping[str, npt.NDArray[np.float64]],
    *,
    classes: int,
) -> Diversity:
    """Diagnostics of M members.

    votes: labels `[M, N]` by set, the test set first. losses: cross-entropy of members on the test set, `[M, N]`.

    The ensemble predicts the mean probability, so its loss is `-log mean_m exp(-loss_m)`.
    """
    test = next(iter(votes.values()))
    right = test == targets
    ensemble = np.log(len(losses)) - np.logaddexp.reduce(-losses, axis=0)
    return Diversity(
        members=tuple(share(row) for row in right),
        disagreement=tuple(tuple(row) for row in disagreement(test).tolist()),
        mean_disagreement={name: mean_disagreement(found) for name, found in votes.items()},
        member_loss=float(losses.mean()),
        ensemble_loss=float(ensemble.mean()),
        ambiguity=float(losses.mean() - ensemble.mean()),
        all_right=share(right.all(0)),
        any_right=share(right.any(0)),
        pds={name: tuple(np.quantile(values, QUANTILES).tolist()) for name, values in pds.items()},
        pds_range=(1 / classes, min(len(test), classes) / classes),
    )


def disagreement(votes: Votes) -> npt.NDArray[np.float64]:
    """`[M, M]`: the share of images that two members label differently."""
    return np.stack([(row != votes).mean(1) for row in votes])


def mean_disagreement(votes: Votes) -> float:
    """Mean of `disagreement` over the M (M - 1) / 2 pairs."""
    return float(disagreement(votes)[np.triu_indices(len(votes), k=1)].mean())
