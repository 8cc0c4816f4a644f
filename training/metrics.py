"""Detection and classification metrics, from scikit-learn, under names that say which meaning is meant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

Values = npt.NDArray[np.float64]


class Detection(BaseModel):
    """How well one score separates ID from one OOD set. All but the counts are shares in [0, 1].

    `ood_accepted_at_95_id`: share of OOD images accepted when 95 % of ID are (the papers' FPR95).
    `id_flagged_at_95_ood`: share of ID images flagged when 95 % of OOD are (OpenOOD's and pytorch-ood's FPR95).
    `aupr_in` takes ID as the positive class, `aupr_out` OOD; `ood_prevalence` is what a random score's AUPR-out is.
    `ood_flagged`: share of OOD images flagged at the calibrated threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: float
    ood_accepted_at_95_id: float
    id_flagged_at_95_ood: float
    aupr_in: float
    aupr_out: float
    ood_prevalence: float
    ood_flagged: float


def detection(inside: Values, outside: Values, threshold: float) -> Detection:
    """Metrics of a score (higher = more OOD) on ID values `[N]` and OOD values `[O]`."""
    labels = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    values = np.concatenate([inside, outside])
    accept_id = np.quantile(inside, 0.95, method="inverted_cdf")
    detect_ood = np.quantile(outside, 0.05, method="inverted_cdf")
    return Detection(
        auroc=float(roc_auc_score(labels, values)),
        ood_accepted_at_95_id=float(np.mean(outside <= accept_id)),
        id_flagged_at_95_ood=float(np.mean(inside >= detect_ood)),
        aupr_in=float(average_precision_score(1 - labels, -values)),
        aupr_out=float(average_precision_score(labels, values)),
        ood_prevalence=float(labels.mean()),
        ood_flagged=float(np.mean(outside > threshold)),
    )


class Share(BaseModel):
    """A share of `of` images, with its 95 % Clopper-Pearson interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float
    low: float
    high: float
    of: int


def share(hits: npt.NDArray[np.bool_]) -> Share:
    """The share of true values and its exact binomial confidence interval."""
    n, k = len(hits), int(np.sum(hits))
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Share(share=k / n, low=low, high=high, of=n)


def promised_acceptance(accept: float, samples: int) -> tuple[float, float]:
    """Where the acceptance of new ID images lies with 95 % probability, given a threshold from `samples` of them.

    The r-th of n order statistics accepts a Beta(r, n + 1 - r) share, with r = ceil((n + 1) accept) (split conformal
    prediction; exchangeable images are assumed).
    """
    rank = min(int(np.ceil((samples + 1) * accept - 1e-9)), samples)
    return float(beta.ppf(0.025, rank, samples + 1 - rank)), float(beta.ppf(0.975, rank, samples + 1 - rank))


def calibration_error(probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error: mean over confidence bins of |accuracy - confidence|, weighted by their images."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == targets
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(correct[which == b].mean() - confidence[which == b].mean()) * np.mean(which == b)
            for b in np.unique(which)
        )
    )
