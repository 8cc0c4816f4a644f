"""Strangers among many images at once, with a bound on the share of false ones. NumPy only."""

from __future__ import annotations

import numpy as np

from oodguard.core.curve import Scores

ROUNDING = 1e-12


def discovery_cut(p_values: Scores, rate: float) -> float:
    """The largest p-value that names a stranger, so that at most `rate` of those named are in distribution.

    Benjamini and Hochberg (1995): of m p-values in order, the largest p_(k) with `p_(k) <= rate * k / m`; 0 where there
    is none, which no p-value reaches. The bound is on the expected share. It holds for p-values from one calibration
    (`QuantileCurve.p_value`), which depend on each other through it (Bates et al. 2023, "Testing for outliers with
    conformal p-values").
    """
    m = len(p_values)
    ordered = np.sort(p_values)
    named = np.flatnonzero(ordered <= rate * np.arange(1, m + 1) / m + ROUNDING)
    return float(ordered[named[-1]]) if len(named) else 0.0


def fewest_discoveries(images: int, rate: float, least: float) -> int:
    """How many of so many images must reach the `least` p-value that is possible before any is named a stranger."""
    return max(1, int(np.ceil(least * images / rate - ROUNDING)))
