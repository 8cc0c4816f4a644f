"""Detection and classification metrics, from scikit-learn, under names that say which meaning is meant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import beta, norm, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

Values = npt.NDArray[np.float64]
Interval = tuple[float, float]

BINS = 15


class Detection(BaseModel):
    """How well one score separates ID from one OOD set. All but the counts are shares in [0, 1].

    `ood_accepted_at_95_id`: share of OOD images accepted when 95 % of ID are (the papers' FPR95).
    `id_flagged_at_95_ood`: share of ID images flagged when 95 % of OOD are (OpenOOD's and pytorch-ood's FPR95).
    `aupr_in` takes ID as the positive class, `aupr_out` OOD; `ood_prevalence` is what a random score's AUPR-out is.
    `ood_flagged`: share of OOD images flagged at the calibrated threshold.

    Intervals hold 95 %, for images drawn independently. AUROC's is `auroc_interval`; those of the shares are
    Clopper-Pearson over the OOD images, the threshold taken as given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: float
    ood_accepted_at_95_id: float
    id_flagged_at_95_ood: float
    aupr_in: float
    aupr_out: float
    ood_prevalence: float
    ood_flagged: float
    auroc_interval: Interval
    ood_accepted_interval: Interval
    ood_flagged_interval: Interval


def detection(inside: Values, outside: Values, threshold: float) -> Detection:
    """Metrics of a score (higher = more OOD) on ID values `[N]` and OOD values `[O]`."""
    labels = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    values = np.concatenate([inside, outside])
    accept_id = np.quantile(inside, 0.95, method="inverted_cdf")
    detect_ood = np.quantile(outside, 0.05, method="inverted_cdf")
    accepted, flagged = share(outside <= accept_id), share(outside > threshold)
    return Detection(
        auroc=auroc(inside, outside),
        ood_accepted_at_95_id=accepted.share,
        id_flagged_at_95_ood=float(np.mean(inside >= detect_ood)),
        aupr_in=average_precision(1 - labels, -values),
        aupr_out=average_precision(labels, values),
        ood_prevalence=float(labels.mean()),
        ood_flagged=flagged.share,
        auroc_interval=auroc_interval(inside, outside),
        ood_accepted_interval=(accepted.low, accepted.high),
        ood_flagged_interval=(flagged.low, flagged.high),
    )


def average_precision(labels: Values, values: Values) -> float:
    """Area under the precision-recall curve; at most 1, which scikit-learn's sum passes by rounding."""
    return min(1.0, float(average_precision_score(labels, values)))


def auroc(inside: Values, outside: Values) -> float:
    """Area under the ROC curve of ID values `[N]` and OOD values `[O]`: that an OOD value exceeds an ID one."""
    labels = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    return float(roc_auc_score(labels, np.concatenate([inside, outside])))


def placements(inside: Values, outside: Values) -> tuple[Values, Values]:
    """For each ID value the share of OOD values above it `[N]`, for each OOD value the share of ID below it `[O]`.

    Ties count half. Both means are the AUROC.
    """
    n, o = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    return 1.0 - (ranks[:n] - rankdata(inside)) / o, (ranks[n:] - rankdata(outside)) / n


def auroc_interval(inside: Values, outside: Values) -> Interval:
    """95 % interval of the AUROC A: DeLong's variance `var(v_id)/N + var(v_ood)/O` of the `placements` v, on logit A.

    DeLong et al. 1988. Where a sample of this kind leaves no variance (A is 0 or 1), the exact binomial interval of
    the smaller sample stands in, which is wider than it has to be.
    """
    v_id, v_ood = placements(inside, outside)
    area, variance = float(v_id.mean()), _variance(v_id) + _variance(v_ood)
    if not 0.0 < area < 1.0 or variance == 0.0:
        bound = share(np.full(min(len(v_id), len(v_ood)), area >= 0.5))
        return bound.low, bound.high
    centre, spread = np.log(area / (1 - area)), norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    return float(1 / (1 + np.exp(spread - centre))), float(1 / (1 + np.exp(-spread - centre)))


class Change(BaseModel):
    """A difference of two AUROCs, or of two shares, on the same images, with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: float
    low: float
    high: float


def auroc_change(before: tuple[Values, Values], after: tuple[Values, Values]) -> Change:
    """AUROC of `after` less that of `before`, each `(inside, outside)` of the same images in the same order.

    DeLong's interval for paired curves: the variance is that of the differences of `placements`.
    """
    (a_id, a_ood), (b_id, b_ood) = placements(*before), placements(*after)
    change = float(b_id.mean() - a_id.mean())
    spread = float(norm.ppf(0.975) * np.sqrt(_variance(b_id - a_id) + _variance(b_ood - a_ood)))
    return Change(change=change, low=change - spread, high=change + spread)


def _variance(values: Values) -> float:
    """Of the mean of `values`."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


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


def share_change(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Change:
    """The share of `after` less that of `before`, both `[N]` of the same images in the same order.

    Bonett and Price's interval for paired shares (2012): Wald's after one image is added to each kind of change.
    """
    n, gained, lost = len(before), int(np.sum(after & ~before)), int(np.sum(before & ~after))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    spread = float(norm.ppf(0.975) * np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    return Change(change=(gained - lost) / n, low=max(up - down - spread, -1.0), high=min(up - down + spread, 1.0))


def calibration_error(
    probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.int64], bins: int = BINS
) -> float:
    """Expected calibration error: mean over confidence bins of |accuracy - confidence|, weighted by their images."""
    found = reliability(probabilities, targets, bins)
    return float(sum(abs(b.accuracy.share - b.confidence) * b.accuracy.of for b in found) / len(targets))


class ConfidenceBin(BaseModel):
    """The images whose top probability lies in one bin: its mean, and how many of their labels are right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    confidence: float
    accuracy: Share


def reliability(
    probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.int64], bins: int = BINS
) -> tuple[ConfidenceBin, ...]:
    """Accuracy against confidence in equal bins of confidence; bins without images are left out."""
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == targets
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return tuple(
        ConfidenceBin(
            low=b / bins,
            high=(b + 1) / bins,
            confidence=float(confidence[which == b].mean()),
            accuracy=share(correct[which == b]),
        )
        for b in np.unique(which).tolist()
    )
