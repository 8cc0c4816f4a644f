"""Energy fine-tuning: low energy on training photos, high energy on auxiliary outliers.

Liu et al. 2020, as the GReg paper states it (Eq. 1), for E = -logsumexp f (`scores.energy`, higher = more OOD):

    L_S = mean_in max(E(x) - m_in, 0)^2 + mean_aux max(m_aux - E(x), 0)^2                                  (1)

added to the cross-entropy with weight 0.1. The papers fix m_in = -25 and m_aux = -7 for CIFAR. Energies shift with the
number of classes and the training, and with few classes -25 is hardly ever reached, so that every photo is pushed for
ever; by default the margins are quantiles of the energies that the network had before (`Margins.of`).
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

WEIGHT = 0.1
INSIDE_QUANTILE = 0.5
OUTSIDE_QUANTILE = 0.5
MIN_GAP = 1.0


class Margins(BaseModel):
    """`inside` = m_in, above which a training photo's energy is pushed down; `outside` = m_aux, its counterpart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inside: float
    outside: float

    @model_validator(mode="after")
    def _ordered(self) -> Margins:
        if self.inside >= self.outside:
            raise ValueError(
                f"the energy margins are crossed: inside ({self.inside:g}) must be below outside ({self.outside:g})"
            )
        return self

    @classmethod
    def of(cls, inside: Tensor, outside: Tensor) -> Margins:
        """From a pretrained network's energies on training photos `[N]` and on outliers `[O]`.

        Half of each set already lies on its side: `inside` is the training photos' median energy, `outside` the
        outliers', but at least `MIN_GAP` nats above.
        """
        low = float(torch.quantile(inside, INSIDE_QUANTILE))
        return cls(inside=low, outside=max(float(torch.quantile(outside, OUTSIDE_QUANTILE)), low + MIN_GAP))


def energy_loss(inside: Tensor, outside: Tensor, margins: Margins) -> Tensor:
    """Eq. 1 of energies `[N]` and `[O]`: a scalar, 0 when all lie on their side of the margins."""
    above = (inside - margins.inside).clamp_min(0.0).square().mean()
    below = (margins.outside - outside).clamp_min(0.0).square().mean()
    return above + below
