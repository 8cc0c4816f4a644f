"""`ice` and its ablations: a Gaussian top on a network's embedding, trained with auxiliary outliers.

`training/heads/ice.py` has the head and the loss. Ablations (ICE paper, Table 3): `ice-energy` trains the energy loss
on the Gaussian top; `ice-bce` a binary cross-entropy of its log-likelihood; `ice-no-id` leaves the ID term out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from oodguard.bench.methods.classifier import Classifier
from oodguard.bench.methods.method import Detector, MethodOutput, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import LearningProblem, batched
from oodguard.training.heads import energy, scores
from oodguard.training.heads.energy import Margins, energy_loss
from oodguard.training.heads.ice import WEIGHT, IceHead, ice_loss, log_complement
from oodguard.training.loop import Objective, Schedule, fit

Loss = Literal["ice", "energy", "bce", "no-id"]
ICE_WIDTH = 64
FINE_TUNED_TOP_RATE = 10.0


class GaussianTop(Detector):
    """A network whose linear classifier is replaced by `IceHead`."""

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network = network
        width = network.head.in_features
        self.network.head.requires_grad_(False)
        self.top = IceHead(width=width, ice_width=min(ICE_WIDTH, width), classes=classes)
        self.offset = nn.Parameter(torch.zeros(()))

    def heights(self, x: Tensor) -> Tensor:
        """`h [B, C]`."""
        found: Tensor = self.top(self.network.embed(x))
        return found

    @torch.no_grad()
    def output(self, x: Tensor) -> MethodOutput:
        """The score that the loss trains, under the name `ice`, and the energy of h."""
        h = self.heights(x)
        return MethodOutput(
            logits=h.unsqueeze(0),
            log_probabilities=h.log_softmax(-1),
            scores={"ice": scores.ice(h), "energy": scores.energy(h)},
        )


@dataclass(frozen=True)
class GaussianMethod:
    """Train a Gaussian top and the network under it. from_scratch: instead of from `single`."""

    name: str
    summary: str
    loss: Loss = "ice"
    from_scratch: bool = False
    needs_outliers: bool = True

    @property
    def starts_from(self) -> str | None:
        """`single`, or None with `from_scratch`."""
        return None if self.from_scratch else "single"

    def build(self, problem: LearningProblem) -> GaussianTop:
        """An untrained network with a Gaussian top."""
        problem.need_outliers()
        return GaussianTop(problem.space.network(classes=problem.classes), problem.classes)

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """Train; the centres start at the class means of the embedding."""
        assert isinstance(detector, GaussianTop)
        if start is not None:
            assert isinstance(start, Classifier)
            detector.network.load_state_dict(start.network.state_dict())
        with torch.no_grad():
            detector.eval()
            network = detector.network.to(compute.device)
            embedding = batched(network.embed, problem.space, problem.inputs[0], where=compute.device)
            detector.top.initialise(embedding, problem.targets)
        detector.train()
        schedule = problem.space.scratch if self.from_scratch else problem.space.fine_tune
        fit(
            compute,
            GaussianObjective(detector, problem, self.loss, 1.0 if self.from_scratch else FINE_TUNED_TOP_RATE),
            schedule,
            count=len(problem.targets),
            remedy="lower the learning rate",
            progress=progress,
        )
        detector.eval().cpu()


class GaussianObjective(Objective):
    """One of the four losses. Distances in units of a small spread have large gradients, which are bounded."""

    max_norm = 1.0

    def __init__(self, detector: GaussianTop, problem: LearningProblem, loss: Loss, top_rate: float) -> None:
        super().__init__()
        self.detector = detector
        self._problem = problem
        self._loss = loss
        self._top_rate = top_rate

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """One batch, and as many outliers."""
        x, y = self._problem.batch(rows, self.detector.offset.device)
        outliers = self._problem.some_outliers(len(x), x.device)
        both = self.detector.heights(torch.cat([x, outliers]))
        h, h_out = both[: len(x)], both[len(x) :]
        if self._loss == "ice":
            return ice_loss(h, y, h_out)
        main = functional.cross_entropy(h, y)
        if self._loss == "no-id":
            return main + WEIGHT * log_complement(h_out.amax(-1)).mean()
        e_in, e_out = scores.energy(h), scores.energy(h_out)
        if self._loss == "energy":
            # h <= 0, so that energies are positive: about 1 on training images, far more on outliers.
            return main + energy.WEIGHT * energy_loss(e_in, e_out, Margins(inside=1.0, outside=7.0))
        offset = self.detector.offset
        binary = functional.softplus(e_in - offset).mean() + functional.softplus(offset - e_out).mean()
        return main + WEIGHT * binary

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """The Gaussian top has no decay, and a higher rate where the network under it is already trained."""
        top = [*self.detector.top.parameters(), self.detector.offset]
        under = [p for p in self.trained if all(p is not mine for mine in top)]
        return [
            {"params": [p for p in under if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in under if p.ndim <= 1], "weight_decay": 0.0},
            {"params": top, "weight_decay": 0.0, "lr": self._top_rate * schedule.lr},
        ]


GAUSSIAN_METHODS = (
    GaussianMethod("ice", "in-distribution compatible outlier exposure (ICE)"),
    GaussianMethod("ice-scratch", "ICE trained from scratch", from_scratch=True),
    GaussianMethod("ice-energy", "ablation: energy loss on the Gaussian top", "energy"),
    GaussianMethod("ice-bce", "ablation: binary cross-entropy on the Gaussian top", "bce"),
    GaussianMethod("ice-no-id", "ablation: ICE without the ID term", "no-id"),
)
