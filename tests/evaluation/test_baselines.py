"""The baselines, against scikit-learn and NumPy used the plain way, and on a run that was really trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from oodguard.core.curve import QuantileCurve
from oodguard.evaluation.baselines import LARGER, LOGISTIC, NEIGHBOUR, baseline_scores, neighbour_distance
from oodguard.evaluation.frozen import FrozenFeatures, LabelledFeatures
from oodguard.evaluation.leak import leak
from oodguard.training.options import TrainOptions


def clouds(items: int, seed: int, *, copies: int = 1, shift: float = 0.0) -> LabelledFeatures:
    """Three clouds of features of length 1, of items with several near-duplicate photos each."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(items), copies)
    labels = groups % 3
    values = rng.normal(size=(items, 6))[groups] + 3 * np.eye(3, 6)[labels] + 0.01 * rng.normal(size=(len(groups), 6))
    values[:, 5] += shift
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    return LabelledFeatures(features=unit.astype(np.float32), labels=labels, groups=groups)


def frozen(*, cross_fit: int = 0, copies: int = 2) -> FrozenFeatures:
    options = TrainOptions(data=Path("photos"), cross_fit=cross_fit, calibration_fraction=0.3)
    test = clouds(90, 3)
    return FrozenFeatures(
        options=options,
        training=clouds(60, 1, copies=copies),
        calibration=None if cross_fit else clouds(40, 2, copies=copies),
        test=test.features,
        targets=test.labels,
        ood={"far": clouds(40, 4, shift=9.0).features},
    )


def test_the_fifth_neighbour_by_hand() -> None:
    bank = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    # In order of distance: itself 0, (.8, .6) .2, (.6, .8) .4, both at right angles 1, the opposite 2.
    assert [round(float(neighbour_distance(query, bank, k)[0]), 6) for k in (1, 2, 3, 4, 5, 6)] == [
        0,
        0.2,
        0.4,
        1,
        1,
        2,
    ]
    assert neighbour_distance(query, bank, 99) == neighbour_distance(query, bank, 6)


def test_scores_are_those_of_thirty_plain_lines() -> None:
    given = frozen()
    assert given.calibration is not None
    found = baseline_scores(given)
    training, held = given.training, given.calibration.features
    plain = LogisticRegression(C=30, max_iter=2000).fit(training.features, training.labels)
    far = given.ood["far"]
    similarity = np.sort(far @ training.features.T, axis=1)
    np.testing.assert_allclose(found.ood["far"][NEIGHBOUR], 1 - similarity[:, -5], atol=1e-6)
    np.testing.assert_allclose(found.ood["far"][LOGISTIC], 1 - plain.predict_proba(far).max(1), atol=1e-6)
    np.testing.assert_array_equal(found.right, plain.predict(given.test) == given.targets)
    ranks = [
        np.searchsorted(np.sort(found.calibration[name]), found.test[name]) / (len(held) + 1)
        for name in (NEIGHBOUR, LOGISTIC)
    ]
    inside = np.maximum(*ranks) < 0.98
    np.testing.assert_allclose(found.test[LARGER][inside], 100 * np.maximum(*ranks)[inside], atol=1e-9)
    assert np.mean(found.ood["far"][LARGER] == 100.0) > 0.9


def test_a_threshold_accepts_its_share_of_the_calibration_photos() -> None:
    found = baseline_scores(frozen())
    for name, values in found.calibration.items():
        accepted = np.mean(values <= QuantileCurve.fit(values).threshold(0.9))
        assert accepted == pytest.approx(0.9, abs=0.06), name


def test_a_cross_fitted_run_is_calibrated_out_of_fold_with_duplicates_together() -> None:
    given = frozen(cross_fit=4, copies=6)
    found = baseline_scores(given)
    assert {len(values) for values in found.calibration.values()} == {360}
    training = given.training
    in_sample = neighbour_distance(training.features, training.features, 5)
    # Among all training photos the five nearest are its near-duplicates; those lie in its own part.
    assert in_sample.max() < 0.001 < found.calibration[NEIGHBOUR].min()
    # The test photos are measured with all training photos.
    np.testing.assert_allclose(found.test[NEIGHBOUR], neighbour_distance(given.test, training.features, 5))


def test_a_random_calibration_split_hides_what_near_duplicates_do() -> None:
    found = leak(frozen(copies=12))
    assert list(found) == ["random", "grouped"]
    for k in (1, 5):
        # Every item has photos on both sides of the random split, so that test photos of new items all look strange.
        assert found["random"][k] < 0.05
        assert found["grouped"][k] > 0.85
    assert leak(frozen(cross_fit=4)) == {}
