from __future__ import annotations

import numpy as np
import pytest

from oodguard.training.metrics import calibration_error, detection, promised_acceptance, share


def test_both_meanings_of_fpr95_by_hand() -> None:
    inside = np.arange(100.0)  # 95 % of ID are accepted at 94
    outside = np.array([50.0, 94.0, 95.0, 96.0, *np.full(96, 200.0)])
    found = detection(inside, outside, threshold=97.0)
    assert found.ood_accepted_at_95_id == pytest.approx(0.02)
    # 95 % of OOD score at least 200, which no ID image does.
    assert found.id_flagged_at_95_ood == 0.0
    assert found.ood_flagged == pytest.approx(0.96)
    assert found.ood_prevalence == 0.5


def test_orientation_is_higher_is_ood() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 500), rng.normal(3, 1, 300)
    assert detection(inside, outside, 0.0).auroc > 0.97
    assert detection(outside, inside, 0.0).auroc < 0.03
    assert detection(inside, outside, 0.0).aupr_out > 0.9


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=60), rng.normal(0.5, size=50)
    pairs = (outside[:, None] > inside[None, :]).mean()
    assert detection(inside, outside, 0.0).auroc == pytest.approx(pairs)


def test_share_has_the_exact_interval() -> None:
    found = share(np.array([True] * 95 + [False] * 5))
    assert (found.share, found.of) == (0.95, 100)
    assert found.low == pytest.approx(0.8872, abs=1e-4)
    assert found.high == pytest.approx(0.9836, abs=1e-4)
    assert share(np.ones(10, dtype=bool)).high == 1.0
    assert share(np.zeros(10, dtype=bool)).low == 0.0


def test_promised_acceptance_covers_what_happens() -> None:
    rng = np.random.default_rng(2)
    low, high = promised_acceptance(0.95, 99)
    hits = [low <= np.sort(rng.uniform(size=99))[94] <= high for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10, dtype=np.float32)
    targets = np.array([0] * 6 + [1] * 4)
    assert calibration_error(probabilities, targets) == pytest.approx(0.3, abs=1e-6)
