"""`fused`: the guard as it is served: all heads over one feature, calibrated, with one fused score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench.methods.classifier import Classifier
from oodguard.bench.methods.method import Detector, MethodOutput, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import LearningProblem, Space, batched
from oodguard.core.calibration import Calibration
from oodguard.training.heads import scores
from oodguard.training.heads.guard import GuardHeads, fit_heads, head_shapes
from oodguard.training.heads.rows import Rows
from oodguard.training.options import TrainOptions


class GuardDetector(Detector):
    """The served heads over the features of a trained classifier's network."""

    def __init__(self, heads: GuardHeads, network: Network, space: Space) -> None:
        super().__init__()
        self.heads = heads
        self.network = network.requires_grad_(False)
        self._space = space
        self._calibration: Calibration | None = None

    @torch.no_grad()
    def calibrate(self, problem: LearningProblem) -> None:
        """Curves and the fused score on calibration images, as training a guard does."""
        self.eval()
        table = batched(lambda x: self._table(x)[1], problem.space, problem.calibration, where=self.device)
        values = {name: table[:, i].double().numpy() for i, name in enumerate(self.heads.shapes.scores)}
        self._calibration = Calibration.fit(values)

    @torch.no_grad()
    def output(self, x: Tensor) -> MethodOutput:
        """Every served score, and `fused`."""
        logits, table = self._table(x)
        found: dict[str, Tensor] = {name.value: table[:, i] for i, name in enumerate(self.heads.shapes.scores)}
        if self._calibration is not None:
            columns = self._calibration.columns(table.double().numpy())
            predicted = scores.mean_log_probabilities(logits).argmax(-1).numpy()
            found["fused"] = torch.from_numpy(self._calibration.score(columns, predicted))
        return MethodOutput(logits=logits, log_probabilities=scores.mean_log_probabilities(logits), scores=found)

    def _table(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, table = self.heads(self._space.represent(self.network, x))
        return logits.cpu(), table.cpu()


@dataclass(frozen=True)
class FusedMethod:
    """Trains the guard's heads with the default options of `oodguard train`."""

    name: str = "fused"
    summary: str = "the guard as served: LDR, AMP, ICE and density heads, one fused score"
    needs_outliers: bool = False
    starts_from: str | None = "single"

    def build(self, problem: LearningProblem) -> GuardDetector:
        """Untrained heads."""
        network = problem.space.network(classes=problem.classes)
        width = problem.space.represent(network, problem.space.plain(problem.inputs[0][:2])).shape[1]
        shapes = head_shapes(
            self._options(problem), rows=Rows(width), classes=problem.classes, images=len(problem.targets)
        )
        return GuardDetector(GuardHeads(shapes), network.eval(), problem.space)

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """Train the heads over the features of `start`."""
        assert isinstance(detector, GuardDetector)
        assert isinstance(start, Classifier)
        detector.network.load_state_dict(start.network.state_dict())
        with torch.no_grad():
            network = detector.network.eval().to(compute.device)
            features = torch.stack(
                [
                    batched(lambda x: problem.space.represent(network, x), problem.space, view, where=compute.device)
                    for view in problem.inputs
                ]
            )
        detector.heads = fit_heads(
            features,
            problem.targets,
            self._options(problem),
            classes=problem.classes,
            compute=compute,
            progress=progress,
        )
        detector.cpu()

    @staticmethod
    def _options(problem: LearningProblem) -> TrainOptions:
        return TrainOptions(data=Path(), seed=problem.seed, epochs=min(40, problem.space.scratch.epochs))
