from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from oodguard.core.answering import AnsweredPhotos
from oodguard.core.label_sets import RAPS_FREE_CLASSES, RAPS_PENALTY, Nonconformity

LAC, RAPS = Nonconformity.LAC, Nonconformity.RAPS
CHANCES = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])


def test_lac_is_what_a_class_lacks() -> None:
    np.testing.assert_allclose(LAC.table(CHANCES), [[0.8, 0.5, 0.7], [0.9, 0.9, 0.2]])


def test_raps_adds_up_the_likelier_classes_and_a_penalty_for_depth() -> None:
    assert (RAPS_FREE_CLASSES, RAPS_PENALTY) == (2, 0.1)
    np.testing.assert_allclose(RAPS.table(CHANCES), [[1.0 + 0.1, 0.5, 0.8], [0.9, 1.0 + 0.1, 0.8]])


@pytest.mark.parametrize("kind", Nonconformity)
def test_walking_down_gives_the_set_of_the_table(kind: Nonconformity) -> None:
    chances = np.random.default_rng(0).dirichlet(np.full(7, 0.4), 200)
    for row, values in zip(chances, kind.table(chances), strict=True):
        order = np.argsort(-row, kind="stable")
        np.testing.assert_allclose(list(kind.along(row[order])), values[order])
        for cut in (0.0, 0.3, 0.7, 0.95, 1.0, 1.4, np.inf):
            assert kind.size(row[order], cut) == max(1, int((values <= cut).sum()))


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are its probabilities."""

    def __init__(self, classes: int = 5) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)
        self.is_fitted_ = True

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: np.ndarray) -> Given:
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X.argmax(1))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_lac_sets_are_those_of_mapie(coverage: float) -> None:
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.full(5, 0.5), 700)
    targets = np.array([rng.choice(5, p=row) for row in chances])
    held, new = chances[:300], chances[300:]
    mapie = SplitConformalClassifier(Given(), confidence_level=coverage, prefit=True, conformity_score="lac")
    mapie.conformalize(held, targets[:300])
    theirs = mapie.predict_set(new)[1][:, :, 0]
    values = LAC.table(held)[np.arange(300), targets[:300]]
    photos = AnsweredPhotos(
        fused=(0.0,) * 300,
        chance=tuple(held.max(1).tolist()),
        right=(True,) * 300,
        nonconformity=tuple(values.tolist()),
        weight=(1.0,) * 300,
    )
    ours = LAC.table(new) <= photos.cut(coverage, threshold=1.0)
    np.testing.assert_array_equal(ours, theirs)
