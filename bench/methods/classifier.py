"""`single`: one classifier trained by cross-entropy, with every post-hoc score; other methods start from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.catalogue import OF_LOGITS, POST_HOC
from oodguard.bench.baselines.odin import odin
from oodguard.bench.baselines.post_hoc import BANK, Embedded, LearnedClassifier, Score
from oodguard.bench.methods.method import Detector, MethodOutput, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import EVALUATION_BATCH, LearningProblem, batched
from oodguard.training.heads import scores
from oodguard.training.heads.density import Density, density_width
from oodguard.training.heads.greg import gradient_norms
from oodguard.training.loop import Objective, Schedule, fit

LABEL_SMOOTHING = 0.1
NEIGHBOURS = 5

Loss = Callable[[Network, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class PostHoc:
    """Post-hoc scores, fitted on a trained classifier; not part of its weights."""

    temperature: float
    scores: Mapping[str, Score]
    density: Density


class Classifier(Detector):
    """One network, with every post-hoc score of `baselines/`, and kNN and Mahalanobis as the guard has them."""

    def __init__(self, network: Network, problem: LearningProblem) -> None:
        super().__init__()
        self.network = network
        self._space = problem.space
        self._fitted: PostHoc | None = None

    @torch.no_grad()
    def calibrate(self, problem: LearningProblem) -> None:
        """Temperature on calibration images; everything else on plain training images."""
        self.eval()
        training = self._embedded_in_batches(problem, problem.inputs[0])
        learned = LearnedClassifier(
            head=copy.deepcopy(self.network.head).cpu(),
            training=training,
            targets=problem.targets,
            calibration=self._embedded_in_batches(problem, problem.calibration),
            calibration_targets=problem.calibration_targets,
        )
        count, width = training.features.shape
        density = Density(
            width=width, density_width=density_width(width, count), classes=problem.classes, bank=min(BANK, count)
        )
        density.fit(training.features, problem.targets)
        self._fitted = PostHoc(
            temperature=learned.temperature,
            scores={name: fit_score(learned) for name, fit_score in POST_HOC.items()},
            density=density,
        )

    def _embedded(self, x: Tensor) -> Embedded:
        embedding = self.network.embed(x)
        return Embedded(
            embeddings=embedding,
            logits=self.network.classify(embedding),
            features=self._space.represent(self.network, x),
        )

    def _embedded_in_batches(self, problem: LearningProblem, inputs: Tensor) -> Embedded:
        def joined(function: Callable[[Tensor], Tensor]) -> Tensor:
            return batched(function, problem.space, inputs, where=self.device)

        return Embedded(
            embeddings=joined(self.network.embed),
            logits=joined(self.network),
            features=joined(lambda x: self._space.represent(self.network, x)),
        )

    def output(self, x: Tensor) -> MethodOutput:
        """All scores; before `calibrate`, those that need no fitted constant."""
        fitted = self._fitted
        with torch.no_grad():
            images = self._embedded(x)
            logits = images.logits
            if fitted is None:
                found = {name: function(logits) for name, function in OF_LOGITS.items()}
            else:
                here = Embedded(images.embeddings.cpu(), logits.cpu(), images.features.cpu())
                to_bank, to_means = fitted.density(here.features)
                found = {name: score(here) for name, score in fitted.scores.items()}
                found["knn"] = scores.knn(to_bank, min(NEIGHBOURS, to_bank.shape[1]))
                found["mahalanobis"] = scores.mahalanobis(to_means)
        if fitted is not None:
            found["odin"] = odin(self.network, x, unit=self._space.unit)
        return MethodOutput(logits=logits.unsqueeze(0), log_probabilities=logits.log_softmax(-1), scores=found)

    def diagnostics(self, problem: LearningProblem) -> dict[str, float]:
        """The temperature, and the energy's mean gradient norm on calibration images in standardised units (GReg)."""
        norms = []
        for rows in torch.split(problem.calibration, EVALUATION_BATCH):
            x = problem.space.plain(rows).to(self.device, copy=True).requires_grad_()
            norms.append(gradient_norms(scores.energy(self.network(x)), x).detach())
        found = {"gradient_norm": self._space.unit * float(torch.cat(norms).mean())}
        return found if self._fitted is None else {"temperature": self._fitted.temperature, **found}


class ClassifierObjective(Objective):
    """Cross-entropy of one network, plus a method's own `extra(network, x, y, step)`."""

    def __init__(self, network: Network, problem: LearningProblem, extra: Loss | None = None) -> None:
        super().__init__()
        self.network = network
        self._problem = problem
        self._extra = extra

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """The loss of one batch."""
        x, y = self._problem.batch(rows, self.network.head.weight.device)
        if self._extra is not None:
            return self._extra(self.network, x, y, step)
        return functional.cross_entropy(self.network(x), y, label_smoothing=LABEL_SMOOTHING)


@dataclass(frozen=True)
class Single:
    """Cross-entropy with label smoothing."""

    name: str = "single"
    summary: str = "one classifier, with every post-hoc score of the field"
    needs_outliers: bool = False
    starts_from: str | None = None

    def build(self, problem: LearningProblem) -> Classifier:
        """An untrained classifier."""
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
        """From scratch."""
        assert isinstance(detector, Classifier)
        train_network(detector.network, problem, compute, problem.space.scratch, progress)


def train_network(
    network: Network,
    problem: LearningProblem,
    compute: Fabric,
    schedule: Schedule,
    progress: Progress | None,
    extra: Loss | None = None,
) -> None:
    """Train a network in place by `ClassifierObjective`."""
    network.train()
    fit(
        compute,
        ClassifierObjective(network, problem, extra),
        schedule,
        count=len(problem.targets),
        what="training",
        remedy="lower the learning rate",
        progress=progress,
    )
    network.eval().cpu()
