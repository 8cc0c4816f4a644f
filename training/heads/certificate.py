"""The certified head: a linear classifier whose energy comes with a radius within which its verdict cannot change.

GReg, Eq. 4. On standardised features z the head is f = W z + b, its score E = -logsumexp f, and E's exact Lipschitz
constant max_c ||w_c|| (`greg.lipschitz`). For a threshold g, no feature within |g - E(z)| / L of z has another verdict.
Trained by cross-entropy first and then by GReg, which keeps L small at the same energies: the gradient term is in
closed form, without a second backward pass.

Outliers are the user's, where there are any, and otherwise mixtures of two images of different classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from oodguard.training.heads import energy, greg, scores
from oodguard.training.heads.energy import Margins, energy_loss
from oodguard.training.heads.ice import mixed_outliers
from oodguard.training.loop import Objective, Schedule, fit

EPOCHS = 15


@dataclass(frozen=True)
class _Data:
    """Standardised features of all views `[V, N, D]`, classes `[N]`, outliers `[O, D]`."""

    features: Tensor
    targets: Tensor
    outliers: Tensor | None


def fit_certified(
    head: nn.Linear,
    features: Tensor,
    targets: Tensor,
    outliers: Tensor | None,
    *,
    compute: Fabric,
    lr: float,
    batch: int,
    regularised: bool = True,
) -> None:
    """Train the head in place on standardised features `[V, N, D]`; `regularised=False` leaves GReg's term out."""
    data = _Data(features, targets, outliers)
    schedule = Schedule(epochs=EPOCHS, batch=batch, lr=lr)
    count = len(targets)
    fit(compute, _LinearObjective(head, data, None, 0.0), schedule, count=count, what="the certified head")
    with torch.no_grad():
        outside = outliers if outliers is not None else mixed_outliers(features[0], targets)
        where = head.weight.device
        margins = Margins.of(scores.energy(head(features[0].to(where))), scores.energy(head(outside.to(where))))
    weight = greg.WEIGHT if regularised else 0.0
    fit(compute, _LinearObjective(head, data, margins, weight), schedule, count=count, what="the certified head")


class _LinearObjective(Objective):
    """Cross-entropy; with margins also the energy loss, and the gradient term in closed form."""

    def __init__(self, head: nn.Linear, data: _Data, margins: Margins | None, gradient_weight: float) -> None:
        super().__init__()
        self.head = head
        self._data = data
        self._margins = margins
        self._gradient_weight = gradient_weight

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """Each of `rows` in one random view."""
        data, where = self._data, self.head.weight.device
        view = torch.randint(len(data.features), (len(rows),))
        x, y = data.features[view, rows].to(where), data.targets[rows].to(where)
        logits = self.head(x)
        loss = functional.cross_entropy(logits, y)
        if self._margins is None:
            return loss
        if data.outliers is None:
            outside = mixed_outliers(x, y)
        else:
            outside = data.outliers[torch.randint(len(data.outliers), (len(rows),))].to(where)
        if not len(outside):  # a batch of one class has no mixtures
            return loss
        strange = self.head(outside)
        e_in, e_out = scores.energy(logits), scores.energy(strange)
        loss = loss + energy.WEIGHT * energy_loss(e_in, e_out, self._margins)
        norms_in = greg.linear_gradient_norms(logits, self.head.weight)
        norms_out = greg.linear_gradient_norms(strange, self.head.weight)
        return loss + self._gradient_weight * greg.gradient_loss(e_in, e_out, norms_in, norms_out, self._margins)
