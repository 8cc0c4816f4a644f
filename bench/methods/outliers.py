"""Methods that fine-tune a trained classifier on auxiliary outliers: `energy`, `oe`, `greg`, `greg-plus`, `oe-greg`.

All start from `single`. The losses are in `outlier_exposure.py` and `training/heads/{energy,greg}.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from oodguard.bench.methods import outlier_exposure
from oodguard.bench.methods.classifier import Classifier, train_network
from oodguard.bench.methods.method import Detector, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import LearningProblem, batched
from oodguard.training.heads import energy, greg, scores
from oodguard.training.heads.energy import Margins, energy_loss


@dataclass(frozen=True)
class OutlierTuned:
    """Cross-entropy + `score_loss` on outliers + `gradient_weight` times GReg's gradient term.

    The margins come from the starting network's energies. clustered: GReg+'s energy-based sampling.
    """

    name: str
    summary: str
    score_loss: Literal["energy", "uniform"]
    gradient_weight: float = 0.0
    clustered: bool = False
    needs_outliers: bool = True
    starts_from: str | None = "single"

    def build(self, problem: LearningProblem) -> Classifier:
        """An untrained classifier."""
        problem.need_outliers()
        return Classifier(problem.space.network(classes=problem.classes), problem)

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """Fine-tune from the weights of `start`."""
        assert isinstance(detector, Classifier)
        assert isinstance(start, Classifier)
        network = detector.network
        network.load_state_dict(start.network.state_dict())
        margins = Margins.of(
            _energies(network.to(compute.device), problem, problem.inputs[0], compute),
            _energies(network, problem, problem.need_outliers(), compute),
        )

        def loss(net: Network, x: Tensor, y: Tensor, step: int) -> Tensor:
            return self._loss(net, x, y, self._outliers(net, problem, len(x), step, x.device), margins)

        train_network(network, problem, compute, problem.space.fine_tune, progress, loss)

    def _outliers(self, net: Network, problem: LearningProblem, count: int, step: int, where: torch.device) -> Tensor:
        if not self.clustered:
            return problem.some_outliers(count, where)
        candidates = problem.some_outliers(min(greg.CANDIDATES * count, 4096), where)
        with torch.no_grad():
            embedding = net.embed(candidates)
            chosen = greg.cluster_sample(embedding, net.classify(embedding), count, seed=step)
        return candidates[chosen]

    def _loss(self, net: Network, x: Tensor, y: Tensor, outliers: Tensor, margins: Margins) -> Tensor:
        if self.gradient_weight:
            # Per-sample gradients: no sample may reach another through batch statistics.
            net.eval()
            x, outliers = x.requires_grad_(), outliers.requires_grad_()
        # One batch for both, as the papers do: batch norm must not tell the two apart.
        inside, outside = torch.split(net(torch.cat([x, outliers])), [len(x), len(outliers)])
        loss = functional.cross_entropy(inside, y)
        e_in, e_out = scores.energy(inside), scores.energy(outside)
        if self.score_loss == "energy":
            loss = loss + energy.WEIGHT * energy_loss(e_in, e_out, margins)
        else:
            loss = loss + outlier_exposure.WEIGHT * outlier_exposure.uniform_loss(outside)
        if self.gradient_weight:
            norms = greg.gradient_norms(e_in, x), greg.gradient_norms(e_out, outliers)
            loss = loss + self.gradient_weight * greg.gradient_loss(e_in, e_out, *norms, margins)
        return loss


@torch.no_grad()
def _energies(network: Network, problem: LearningProblem, inputs: Tensor, compute: Fabric) -> Tensor:
    network.eval()
    return scores.energy(batched(network, problem.space, inputs, where=compute.device))


OUTLIER_METHODS = (
    OutlierTuned("energy", "energy fine-tuning with margins (Liu et al. 2020)", "energy"),
    OutlierTuned("oe", "outlier exposure (Hendrycks et al. 2019)", "uniform"),
    OutlierTuned("greg", "energy fine-tuning + gradient regularisation (GReg)", "energy", greg.WEIGHT),
    OutlierTuned("greg-plus", "GReg with energy-based cluster sampling (GReg+)", "energy", greg.WEIGHT, clustered=True),
    OutlierTuned("oe-greg", "outlier exposure + gradient regularisation", "uniform", greg.WEIGHT),
)
