from __future__ import annotations

import math

import numpy as np
import pytest

from oodguard.evaluation.diversity import disagreement, diversity, mean_disagreement

VOTES = np.array([[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 2, 1]])


def test_disagreement_by_hand() -> None:
    np.testing.assert_allclose(disagreement(VOTES), [[0, 0.25, 0.5], [0.25, 0, 0.75], [0.5, 0.75, 0]])
    assert mean_disagreement(VOTES) == pytest.approx(0.5)
    assert mean_disagreement(np.array([[1, 2], [1, 2]])) == 0.0


def test_diagnostics_by_hand() -> None:
    targets = np.array([0, 1, 2, 2])
    # Members give the true class 1/2 and 1/4 (and a third 1/4): the ensemble 1/3.
    losses = np.log(np.array([[2.0] * 4, [4.0] * 4, [4.0] * 4]))
    found = diversity(
        {"ID test": VOTES, "other": VOTES[:, :2]}, targets, losses, {"ID test": np.arange(101.0)}, classes=4
    )
    assert [m.share for m in found.members] == [0.75, 0.5, 0.5]
    assert (found.all_right.share, found.any_right.share) == (0.25, 0.75)
    assert found.member_loss == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)
    assert found.ensemble_loss == pytest.approx(math.log(3))
    assert found.ambiguity == pytest.approx(found.member_loss - math.log(3))
    assert found.ambiguity > 0
    assert found.mean_disagreement == {"ID test": pytest.approx(0.5), "other": pytest.approx(1 / 3)}
    assert found.pds["ID test"] == (5, 25, 50, 75, 95)
    assert found.pds_range == (0.25, 0.75)


def test_identical_members_gain_nothing() -> None:
    losses = np.tile(np.array([0.3, 1.2]), (4, 1))
    votes = np.tile(np.array([0, 1]), (4, 1))
    found = diversity({"ID test": votes}, np.array([0, 1]), losses, {}, classes=2)
    assert found.ambiguity == pytest.approx(0.0, abs=1e-12)
