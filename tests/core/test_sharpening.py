from __future__ import annotations

import numpy as np
import pytest

from oodguard.core.sharpening import Sharpening
from oodguard.training.metrics import calibration_error


def drawn(chances: np.ndarray, seed: int) -> np.ndarray:
    """A class for each row of chances `[N, C]`, drawn by them."""
    rng = np.random.default_rng(seed)
    return (chances.cumsum(1) > rng.uniform(size=(len(chances), 1))).argmax(1)


def chances(count: int, classes: int, *, seed: int, scale: float = 3.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=(count, classes))
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(1, keepdims=True))


def test_the_formula_by_hand() -> None:
    found = Sharpening(power=2.0, floor=0.1).apply([[0.5, 0.3, 0.2]])
    odds = np.array([(0.5 / 0.6) ** 2, (0.3 / 0.4) ** 2, (0.2 / 0.3) ** 2])
    np.testing.assert_allclose(found[0], odds / odds.sum())
    plain = Sharpening(power=2.0).apply([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(plain[0], np.array([0.25, 0.09, 0.04]) / 0.38)


def test_a_floor_far_above_all_probabilities_is_temperature_scaling() -> None:
    p = chances(50, 4, seed=1)
    np.testing.assert_allclose(Sharpening(power=1.7, floor=1e9).apply(p), Sharpening(power=1.7).apply(p), rtol=1e-6)


def test_no_sharpening_leaves_probabilities_as_they_are() -> None:
    p = chances(5, 3, seed=2).astype(np.float32)
    np.testing.assert_array_equal(Sharpening().apply(p), p)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_temperature_is_found_again(temperature: float) -> None:
    true = chances(20_000, 6, seed=3)
    served = true**temperature / (true**temperature).sum(1, keepdims=True)
    found = Sharpening.fit(served, drawn(true, 4))
    assert found.floor is None
    assert found.power == pytest.approx(1 / temperature, rel=0.04)


def test_a_floor_under_smoothed_probabilities_is_taken_off() -> None:
    """Label smoothing gives each class a share; temperature alone would sharpen close competitors, too."""
    true = chances(8000, 10, seed=5)
    served = 0.6 * true + 0.4 / 10
    targets = drawn(true, 6)
    found = Sharpening.fit(served, targets)
    assert found.floor is not None
    alone = Sharpening(power=Sharpening.fit(served, targets).power)

    def loss(q: np.ndarray) -> float:
        return float(-np.log(q[np.arange(len(q)), targets]).mean())

    assert loss(found.apply(served)) < loss(alone.apply(served)) - 0.05
    assert loss(found.apply(served)) < loss(served) - 0.2
    assert calibration_error(found.apply(served), targets) < 0.05 < calibration_error(served, targets)


def test_labels_never_change() -> None:
    p = np.random.default_rng(7).dirichlet(np.full(20, 0.05), 500)
    for how in (Sharpening(power=0.01), Sharpening(power=50.0, floor=1e-4), Sharpening(power=3.0, floor=50.0)):
        found = how.apply(p)
        np.testing.assert_array_equal(found.argmax(1), p.argmax(1))
        np.testing.assert_allclose(found.sum(1), 1.0)
        assert np.isfinite(found).all()


def test_a_weight_counts_as_so_many_images() -> None:
    p, targets = chances(60, 3, seed=8), drawn(chances(60, 3, seed=8), 9)
    weights = np.arange(60) % 3 + 1.0
    repeated = np.repeat(np.arange(60), weights.astype(int))
    by_weight, by_copies = Sharpening.fit(p, targets, weights), Sharpening.fit(p[repeated], targets[repeated])
    assert by_weight.power == pytest.approx(by_copies.power, rel=1e-6)
    assert by_weight.floor == by_copies.floor


def test_photos_that_are_all_right_do_not_run_away() -> None:
    p = chances(40, 3, seed=10)
    found = Sharpening.fit(p, p.argmax(1))
    assert 1.0 < found.power <= 100.0
    assert np.isfinite(found.apply(p)).all()
