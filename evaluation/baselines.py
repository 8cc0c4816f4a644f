"""The baselines that every evaluation computes: what thirty lines of scikit-learn reach on the frozen feature.

With z the frozen feature of length 1 of an image (the pretrained network's, before any fine-tuning):

* fifth neighbour: 1 - cos(z, z') with z' the fifth nearest training photo;
* logistic regression: 1 - max_c p(c | z), L2-regularised with C = 30;
* larger of both ranks: the larger of the two percentiles among the calibration photos.

Each is higher for images that are more OOD. Thresholds come from the photos that calibrated the run, at the same target
acceptance. For a cross-fitted run, whose training photos also calibrate, both are fitted anew without each part.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from oodguard.core.curve import QuantileCurve, Scores
from oodguard.evaluation.frozen import Features, FrozenFeatures, LabelledFeatures
from oodguard.training.photos.division import Labels
from oodguard.training.photos.split import parts_of

NEIGHBOUR = "fifth neighbour"
LOGISTIC = "logistic regression"
LARGER = "larger of both ranks"
K = 5
C = 30.0


@dataclass(frozen=True)
class BaselineScores:
    """Scores of every baseline, by name: of the calibration photos, the test photos, and every OOD set.

    right: whether logistic regression labels each test photo rightly, `[N]`.
    """

    calibration: Mapping[str, Scores]
    test: Mapping[str, Scores]
    ood: Mapping[str, Mapping[str, Scores]]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Fitted:
    """Both plain scores, fitted on training photos."""

    bank: Features
    regression: LogisticRegression

    @classmethod
    def on(cls, training: LabelledFeatures) -> _Fitted:
        with warnings.catch_warnings():
            # A fit that stops early is still a baseline.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression = LogisticRegression(C=C, max_iter=2000).fit(training.features, training.labels)
        return cls(bank=training.features, regression=regression)

    def labels(self, features: Features) -> Labels:
        return np.asarray(self.regression.predict(features), dtype=np.int64)

    def scores(self, features: Features) -> dict[str, Scores]:
        probabilities = self.regression.predict_proba(features).astype(np.float64)
        return {NEIGHBOUR: neighbour_distance(features, self.bank, K), LOGISTIC: 1.0 - probabilities.max(1)}


def baseline_scores(frozen: FrozenFeatures) -> BaselineScores:
    """Fit the baselines on the run's training photos and score everything else."""
    fitted = _Fitted.on(frozen.training)
    held = _out_of_fold(frozen) if frozen.calibration is None else fitted.scores(frozen.calibration.features)
    curves = {name: QuantileCurve.fit(values) for name, values in held.items()}

    def whole(found: Mapping[str, Scores]) -> dict[str, Scores]:
        ranks = [curves[name].percentile(values) for name, values in found.items()]
        return {**found, LARGER: np.maximum(*ranks)}

    return BaselineScores(
        calibration=whole(held),
        test=whole(fitted.scores(frozen.test)),
        ood={name: whole(fitted.scores(features)) for name, features in frozen.ood.items()},
        right=fitted.labels(frozen.test) == frozen.targets,
    )


def neighbour_distance(queries: Features, bank: Features, k: int) -> Scores:
    """Cosine distance `[Q]` of features of length 1 to the k-th nearest of `bank`, or the farthest of a smaller one."""
    search = NearestNeighbors(n_neighbors=min(k, len(bank)), metric="cosine", algorithm="brute").fit(bank)
    return np.asarray(search.kneighbors(queries)[0][:, -1], dtype=np.float64)


def _out_of_fold(frozen: FrozenFeatures) -> dict[str, Scores]:
    """Scores of the training photos, each by baselines fitted without its part; near-duplicates are in one part."""
    training, options = frozen.training, frozen.options
    parts = parts_of(training.labels, training.groups, count=options.cross_fit, seed=options.seed)
    found = {name: np.empty(len(training.labels)) for name in (NEIGHBOUR, LOGISTIC)}
    for held in parts:
        rest = np.setdiff1d(np.arange(len(training.labels)), held)
        part = LabelledFeatures(training.features[rest], training.labels[rest], training.groups[rest])
        for name, values in _Fitted.on(part).scores(training.features[held]).items():
            found[name][held] = values
    return found
