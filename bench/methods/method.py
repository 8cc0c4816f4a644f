"""What a method is, and what it trains: a detector that scores images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.bench.problem import EVALUATION_BATCH, LearningProblem
from oodguard.training.loop import EpochReport

Progress = Callable[[EpochReport], None]


@dataclass(frozen=True)
class MethodOutput:
    """For B images: members' logits `[M, B, C]`, predicted log-probabilities `[B, C]`, and scores `[B]` by name.

    Higher scores are more OOD.
    """

    logits: Tensor
    log_probabilities: Tensor
    scores: Mapping[str, Tensor]


class Detector(nn.Module):
    """A classifier with OOD scores. Its state dict is all that a trial keeps of it."""

    @property
    def device(self) -> torch.device:
        """The device of its weights, which its inputs must be on."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def calibrate(self, problem: LearningProblem) -> None:
        """Fit what gradients do not train, on training and calibration images. Called after training."""

    def output(self, x: Tensor) -> MethodOutput:
        """The scores of inputs `[B, ...]` as `Space.plain` gives them."""
        raise NotImplementedError

    def diagnostics(self, problem: LearningProblem) -> dict[str, float]:
        """Other numbers for the results, by name."""
        return {}


class Method(Protocol):
    """One way to train a detector."""

    @property
    def name(self) -> str:
        """The name, as `--methods` takes it."""

    @property
    def summary(self) -> str:
        """One line: what it is."""

    @property
    def needs_outliers(self) -> bool:
        """Whether the method learns from auxiliary outliers."""

    @property
    def starts_from(self) -> str | None:
        """The method whose trained detector this one starts from."""

    def build(self, problem: LearningProblem) -> Detector:
        """An untrained detector. The caller seeds torch."""

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """Train the detector in place, from `start` where the method starts from another.

        Raises `QualityError` when the loss stops being finite.
        """


def outputs(detector: Detector, problem: LearningProblem, inputs: Tensor) -> MethodOutput:
    """A detector's output for N images, in batches, on the CPU. Gradients stay enabled, because ODIN needs them."""
    parts = []
    for rows in torch.split(inputs, EVALUATION_BATCH):
        parts.append(detector.output(problem.space.plain(rows).to(detector.device)))
    return MethodOutput(
        logits=torch.cat([p.logits.detach().cpu() for p in parts], dim=1),
        log_probabilities=torch.cat([p.log_probabilities.detach().cpu() for p in parts]),
        scores={name: torch.cat([p.scores[name].detach().cpu() for p in parts]) for name in parts[0].scores},
    )
