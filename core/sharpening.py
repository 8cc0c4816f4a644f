"""`Sharpening`: from the probabilities that a network gives to chances. NumPy only."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from oodguard.core.frozen import Frozen

Table = npt.NDArray[np.float64]

# Below what a network can mean; keeps the logarithm of a probability of 0 finite.
LEAST = 1e-30
# Floors are tried on a logarithmic grid, coarse and then twice finer around the best.
LOG_FLOORS = np.linspace(-9.0, 3.0, 13)
REFINED = (np.linspace(-0.75, 0.75, 7), np.linspace(-0.2, 0.2, 5))
MIN_POWER, MAX_POWER = 1e-2, 1e2
MAX_STEPS = 40


class Sharpening(Frozen):
    """Turns a network's probabilities p into chances q, by the same rule for every class:

        q_c = (p_c / (p_c + floor))^power / sum_k (p_k / (p_k + floor))^power.

    A network that is trained with smoothed labels, or an average of members that disagree, gives each class a floor of
    probability that means nothing; it leaves the comparison of the classes above it meaningful. Far above all
    probabilities the floor drops out, and what is left is temperature scaling (Guo et al. 2017) with temperature
    1 / power. The order of the classes never changes.
    """

    power: float = Field(1.0, gt=0)
    floor: float | None = Field(None, gt=0, description="None: plain temperature scaling")

    def apply(self, probabilities: npt.ArrayLike) -> Table:
        """Chances `[B, C]` of probabilities `[B, C]`."""
        if self == Sharpening():
            # A foreign graph may round a probability up to a little more than 1.
            return np.minimum(np.asarray(probabilities, dtype=np.float64), 1.0)
        return _normalised(self.power * _logs(probabilities, self.floor))

    @classmethod
    def fit(cls, probabilities: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Self:
        """The power and floor with the least `-sum w log q_target`, from `[N, C]` probabilities and `[N]` classes.

        weights: of the images, `[N]`; default: all alike. Where no floor does better than none by more than a nat
        (`sum w` counts the images), there is none.
        """
        true = np.asarray(targets, dtype=np.int64)
        w = np.ones(len(true)) if weights is None else np.asarray(weights, dtype=np.float64)
        plain, power = _powered(_logs(probabilities, None), true, w)
        best = min(_tried(probabilities, true, w, floor) for floor in LOG_FLOORS.tolist())
        for finer in REFINED:
            best = min(best, *(_tried(probabilities, true, w, best[1] + step) for step in finer.tolist()))
        if plain <= best[0] + 1.0:
            return cls(power=power)
        return cls(power=best[2], floor=math.exp(best[1]))


def _tried(
    probabilities: npt.ArrayLike, targets: npt.NDArray[np.int64], weights: Table, floor: float
) -> tuple[float, float, float]:
    """The least loss with a floor, the logarithm of that floor, and the power."""
    loss, power = _powered(_logs(probabilities, math.exp(floor)), targets, weights)
    return loss, floor, power


def _logs(probabilities: npt.ArrayLike, floor: float | None) -> Table:
    p = np.maximum(np.asarray(probabilities, dtype=np.float64), LEAST)
    return np.log(p) if floor is None else np.log(p) - np.log(p + floor)


def _normalised(logits: Table) -> Table:
    found = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(found / found.sum(1, keepdims=True), dtype=np.float64)


def _powered(logs: Table, targets: npt.NDArray[np.int64], weights: Table) -> tuple[float, float]:
    """The least loss over powers, and that power: the loss is convex in it, so Newton's steps find it."""
    true = logs[np.arange(len(logs)), targets]
    power = 1.0
    for _ in range(MAX_STEPS):
        q = _normalised(power * logs)
        mean = (q * logs).sum(1)
        slope = float(weights @ (mean - true))
        curvature = float(weights @ ((q * logs * logs).sum(1) - mean * mean))
        step = slope / curvature if curvature > 0 else math.copysign(math.inf, slope)
        # At most halved or doubled at once: far from the minimum the curvature vanishes.
        moved = min(max(power - step, power / 2), power * 2, MAX_POWER)
        done, power = abs(moved - power) < 1e-9 * power, max(moved, MIN_POWER)
        if done:
            break
    q = _normalised(power * logs)[np.arange(len(logs)), targets]
    return float(-(weights @ np.log(np.maximum(q, LEAST)))), power
