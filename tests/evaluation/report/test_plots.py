from __future__ import annotations

import numpy as np
import pytest

from oodguard.evaluation.report.densities import BINS, density_edges
from oodguard.evaluation.report.detection_curves import rates, thinned
from oodguard.evaluation.report.heatmap import MOST_CLASSES, confusion_plot, shortened, shown_classes


def test_rates_by_hand() -> None:
    x, y = rates(np.array([1.0, 2.0]), np.array([2.0, 3.0, 4.0, 5.0]))
    # Flag from 5 down: ID 0 until 2 is flagged, which takes the tied OOD image along.
    assert x.tolist() == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert y.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_area_under_the_rates_is_the_auroc() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=300), rng.normal(1.0, size=200)
    x, y = rates(inside, outside)
    assert np.trapezoid(y, x) == pytest.approx((outside[:, None] > inside).mean())


def test_thinning_keeps_the_ends_and_every_step_that_shows() -> None:
    x = np.linspace(0, 1, 10_001)
    thin_x, thin_y = thinned(x, x**2, 0.01)
    assert len(thin_x) < 250
    assert (thin_x[0], thin_x[-1]) == (0.0, 1.0)
    assert np.abs(np.interp(x, thin_x, thin_y) - x**2).max() < 0.01


def test_a_far_set_folds_the_axis_and_a_near_one_does_not() -> None:
    rng = np.random.default_rng(1)
    inside = rng.gamma(1.0, size=1000)
    near = density_edges([inside, inside + 1])
    np.testing.assert_allclose(np.diff(near), np.diff(near)[0])
    far = density_edges([inside, inside + 500])
    assert len(far) == BINS + 1
    assert np.all(np.diff(far) > 0)
    assert np.sum(far < np.quantile(inside, 0.9)) > 8


def test_constant_values_still_have_an_axis() -> None:
    assert np.all(np.diff(density_edges([np.ones(5), np.ones(3)])) > 0)


def test_many_classes_show_only_the_most_confused() -> None:
    counts = np.diag(np.full(300, 10))
    counts[7, 123] = counts[250, 8] = 5
    kept = shown_classes(counts)
    assert len(kept) == MOST_CLASSES
    assert {7, 123, 250, 8} <= set(kept)
    plot = confusion_plot(counts, [f"a class with number {i}" for i in range(300)], name="c", alt="c")
    assert len(plot.svg) < 200_000
    assert shortened("a class with number 250") in plot.svg
