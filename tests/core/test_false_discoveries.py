"""Benjamini and Hochberg's choice, and that it keeps its promise with conformal p-values of real scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodguard.core.curve import QuantileCurve
from oodguard.core.false_discoveries import discovery_cut, fewest_discoveries
from oodguard.core.preprocessing import load_pixels
from oodguard.core.verdict import Outputs
from oodguard.training.run import load_run


@pytest.mark.parametrize(
    ("p_values", "rate", "cut"),
    [
        # The example of Benjamini and Hochberg (1995), section 3.2: four of fifteen.
        (
            [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
             0.7590, 1.0],
            0.05,
            0.0095,
        ),
        ([0.2, 0.9, 0.5], 0.1, 0.0),
        # Not the first that fits but the largest one.
        ([0.045, 0.05], 0.05, 0.05),
        ([0.05], 0.05, 0.05),
        ([0.3, 0.1, 0.1, 0.1], 0.2, 0.1),
    ],
)  # fmt: skip
def test_the_cut_is_the_largest_p_value_below_the_line(p_values: list[float], rate: float, cut: float) -> None:
    assert discovery_cut(np.array(p_values), rate) == cut
    assert discovery_cut(np.array(p_values[::-1]), rate) == cut


def test_p_values_are_conformal() -> None:
    curve = QuantileCurve.fit([1.0, 2.0, 2.0, 3.0])
    assert curve.p_value([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0]).tolist() == pytest.approx(
        [1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2]
    )


def test_a_curve_that_keeps_only_some_scores_rounds_p_values_up() -> None:
    scores = np.random.default_rng(0).normal(size=5000)
    curve = QuantileCurve.fit(scores)
    values = np.linspace(-3, 4, 300)
    exact = (1 + (scores[:, None] >= values).sum(0)) / 5001
    found = curve.p_value(values)
    assert np.all(found >= exact - 1e-12)
    assert found[values > 2] == pytest.approx(exact[values > 2])
    assert np.max(found - exact) < 0.003


@pytest.mark.parametrize(
    ("images", "rate", "least", "fewest"), [(100, 0.1, 0.01, 10), (10, 0.1, 0.001, 1), (7, 0.1, 0.05, 4)]
)
def test_so_many_must_be_as_strange_as_can_be(images: int, rate: float, least: float, fewest: int) -> None:
    assert fewest_discoveries(images, rate, least) == fewest

    def cut(strange: int) -> float:
        return discovery_cut(np.array([least] * strange + [1.0] * (images - strange)), rate)

    assert cut(fewest) == least
    assert fewest == 1 or cut(fewest - 1) == 0.0


@pytest.fixture(scope="module")
def real(run: Path, strangers: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fused scores of ID photos that trained nothing, and of strangers."""
    guard = load_run(run)
    calibration, photos = guard.record.calibration, guard.labelled
    assert calibration.answering is not None
    inside = calibration.answering.fused(photos.surprise, photos.predicted)
    images = np.stack(
        [load_pixels(path.read_bytes(), guard.record.preprocessing) for path in sorted((strangers / "noise").iterdir())]
    )
    probabilities, scores = guard.predict(images)
    return inside, calibration.fused(Outputs(probabilities=probabilities, scores=scores))


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_false_discovery_rate_holds_on_real_scores(rate: float, real: tuple[np.ndarray, np.ndarray]) -> None:
    inside, outside = real
    rng = np.random.default_rng(5)
    false, found = [], []
    for _ in range(2000):
        order = rng.permutation(len(inside))
        calibration, known = inside[order[:100]], inside[order[100:140]]
        p_values = QuantileCurve.fit(calibration).p_value(np.concatenate([known, outside]))
        named = p_values <= discovery_cut(p_values, rate)
        false.append(named[:40].sum() / max(named.sum(), 1))
        found.append(named[40:].mean())
    error = np.std(false) / np.sqrt(len(false))
    # The bound is rate * 40 / 52, and it is nearly reached: looser p-values would break it.
    assert np.mean(false) <= rate * 40 / 52 + 3 * error
    assert np.mean(false) >= 0.5 * rate * 40 / 52
    assert np.mean(found) > 0.9
