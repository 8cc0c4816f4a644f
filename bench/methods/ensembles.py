"""Ensembles: independent, diverse, LDR, A2D, DivDis and jointly trained members, with every ensemble score.

Members own the last two layers of the network and share a frozen stem, where the space has one (LDR paper, Sec. A.5.1).
`training/heads/ensemble_loss.py` has the losses.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.bench.baselines import members
from oodguard.bench.methods.classifier import LABEL_SMOOTHING, Classifier
from oodguard.bench.methods.method import Detector, MethodOutput, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import LearningProblem, batched
from oodguard.core.collusion import Averaging
from oodguard.training.heads import scores
from oodguard.training.heads.collusion import diagnose, log_probabilities
from oodguard.training.heads.ensemble_loss import EnsembleLoss, class_shares
from oodguard.training.loop import Objective, Schedule, fit

TWO_STAGE_CONFIDENCE = 0.5


class Members(Detector):
    """M networks over one shared stem."""

    def __init__(self, stem: nn.Module, networks: list[Network], averaging: Averaging = "probabilities") -> None:
        super().__init__()
        self.stem = stem.requires_grad_(False)
        self.networks = nn.ModuleList(networks)
        self._averaging = averaging

    def each(self) -> list[Network]:
        """The members' networks, without the stem."""
        return [network for network in self.networks if isinstance(network, Network)]

    def logits(self, x: Tensor, active: list[int] | None = None) -> Tensor:
        """`[|I|, B, C]` of the active members, or of all."""
        shared = self.stem(x)
        chosen = range(len(self.networks)) if active is None else active
        return torch.stack([self.networks[m](shared) for m in chosen])

    @torch.no_grad()
    def output(self, x: Tensor) -> MethodOutput:
        """PDS, 1 - BMA, average energy, average entropy, entropy of the mean, 1 - mean confidence, distinct votes."""
        logits = self.logits(x)
        return MethodOutput(
            logits=logits,
            log_probabilities=log_probabilities(logits, self._averaging),
            scores={
                "pds": scores.pds(logits),
                "one_minus_bma": scores.one_minus_bma(logits),
                "average_energy": scores.average_energy(logits),
                "average_entropy": members.average_entropy(logits),
                "ensemble_entropy": scores.ensemble_entropy(logits),
                "one_minus_mean_confidence": members.one_minus_mean_confidence(logits),
                "unique_predictions": members.unique_predictions(logits),
            },
        )

    @torch.no_grad()
    def diagnostics(self, problem: LearningProblem) -> dict[str, float]:
        """The collusion report on calibration images, as numbers."""
        calibration = batched(self.logits, problem.space, problem.calibration, where=self.device, dim=1)
        training = batched(self.logits, problem.space, problem.inputs[0], where=self.device, dim=1)
        report = diagnose(
            calibration, problem.calibration_targets, averaging=self._averaging, training=(training, problem.targets)
        )
        return {
            "diversity": report.diversity,
            "relative_diversity": report.relative_diversity,
            "bias_share": report.bias_share,
            "codependence_0.4": report.codependence["0.4"],
            "mean_member_accuracy": sum(report.member_accuracy) / report.members,
            "generalisation_gap": report.generalisation_gap or 0.0,
            "colluding": float(report.colluding),
            **{f"held_{name}": value for name, value in self._aggregates(calibration, problem).items()},
        }

    def _aggregates(self, logits: Tensor, problem: LearningProblem) -> dict[str, float]:
        """Accuracy of mean logits, mean probabilities, the uniform soup and the best member (LDR paper, Table 3)."""
        targets = problem.calibration_targets
        soup = self.soup()
        blended = batched(lambda x: soup(self.stem(x)), problem.space, problem.calibration, where=self.device)
        votes = {
            "mean_logits": logits.mean(0).argmax(-1),
            "mean_probabilities": log_probabilities(logits, "probabilities").argmax(-1),
            "uniform_soup": blended.argmax(-1),
        }
        found = {f"accuracy_{name}": float((vote == targets).double().mean()) for name, vote in votes.items()}
        found["accuracy_oracle"] = float((logits.argmax(-1) == targets).double().mean(1).max())
        return found

    def soup(self) -> Network:
        """One network with the mean of the members' weights. Wortsman et al. 2022."""
        blended = copy.deepcopy(self.networks[0])
        states = [network.state_dict() for network in self.networks]
        blended.load_state_dict(
            {
                name: torch.stack([state[name].float() for state in states]).mean(0).to(value.dtype)
                for name, value in states[0].items()
            }
        )
        assert isinstance(blended, Network)
        return blended.eval()


@dataclass(frozen=True)
class EnsembleMethod:
    """The members of `loss`; its `active` = |I| of them are trained in a step (the stochastic sum).

    Only a `diverse` loss smooths labels: smoothing makes members equally unsure of unknown images, and PDS is high
    where they differ. Diverse members also differ in the multiplier of their learning rate (Wenzel et al. 2020).
    shared_start: all members start from the same weights (LDR paper, Table 2).
    """

    name: str
    summary: str
    loss: EnsembleLoss
    shared_start: bool = False
    starts_from: str | None = "single"

    @property
    def needs_outliers(self) -> bool:
        """Whether its loss looks at auxiliary outliers."""
        return self.loss.needs_outliers

    def build(self, problem: LearningProblem) -> Members:
        """Untrained members over an untrained stem."""
        networks = [problem.space.network(classes=problem.classes) for _ in range(self.loss.members)]
        stem = networks[0].stem
        for network in networks:
            network.stem = nn.Identity()
        return Members(stem, networks, self.loss.averaging)

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """Train the members over the stem of `start`."""
        assert isinstance(detector, Members)
        assert isinstance(start, Classifier)
        detector.stem.load_state_dict(start.network.stem.state_dict())
        detector.stem.eval()
        if self.shared_start:
            for network in detector.each():
                network.last.load_state_dict(start.network.last.state_dict())
                network.head.load_state_dict(start.network.head.state_dict())
        detector.networks.train()
        unsure = _unsure(start.to(compute.device), problem) if self.loss.kind == "two-stage" else None
        fit(
            compute,
            MembersObjective(detector, problem, self.loss, unsure),
            problem.space.heads,
            count=len(problem.targets),
            remedy="lower the learning rate or the weight of disagreement",
            progress=progress,
        )
        detector.eval().cpu()


@torch.no_grad()
def _unsure(start: Classifier, problem: LearningProblem) -> Tensor:
    """`[N]`: training images that the first-stage classifier is unsure of (LDR paper, Sec. A.9)."""
    logits = batched(start.network, problem.space, problem.inputs[0], where=start.device)
    return logits.softmax(-1).amax(-1) < TWO_STAGE_CONFIDENCE


class MembersObjective(Objective):
    """The loss of the active members."""

    def __init__(self, members: Members, problem: LearningProblem, loss: EnsembleLoss, unsure: Tensor | None) -> None:
        super().__init__()
        self.members = members
        self._problem = problem
        self._loss = loss
        self._unsure = unsure
        self._prior = class_shares(problem.targets, problem.classes)

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """One batch."""
        loss, problem = self._loss, self._problem
        where = next(self.members.parameters()).device
        x, y = problem.batch(rows, where)
        return loss(
            self.members.logits,
            x,
            y,
            outliers=problem.some_outliers(len(x), where) if loss.needs_outliers else None,
            prior=self._prior.to(where),
            unsure=None if self._unsure is None else self._unsure[rows].to(where),
        )

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """One pair of groups for all members, or for `diverse` one group per member, with its own rate."""
        if not self._loss.diverse:
            return super().parameter_groups(schedule)
        rates = torch.logspace(-0.5, 0.5, self._loss.members).tolist()
        return [
            {"params": list(network.parameters()), "weight_decay": schedule.weight_decay, "lr": schedule.lr * rate}
            for network, rate in zip(self.members.networks, rates, strict=True)
        ]


_loss = partial(EnsembleLoss, members=5, label_smoothing=0.0)

ENSEMBLE_METHODS = (
    EnsembleMethod("deep-ensemble", "independent members, all trained in every step", _loss("independent", active=5)),
    EnsembleMethod("diverse-ensemble", "independent members, each with its own learning rate and label smoothing",
                   _loss("independent", active=5, label_smoothing=LABEL_SMOOTHING, diverse=True)),
    EnsembleMethod("independent-pairs", "independent members, a random pair per step: LDR without disagreement",
                   _loss("independent")),
    EnsembleMethod("ldr", "loss-guided diversification (LDR)", _loss("ldr")),
    EnsembleMethod("two-stage", "disagreement on the training images a first classifier is unsure of",
                   _loss("two-stage")),
    EnsembleMethod("a2d", "agreement to disagree on auxiliary outliers", _loss("a2d")),
    EnsembleMethod("divdis", "diversify and disambiguate on auxiliary outliers", _loss("divdis", weight=1.0)),
    EnsembleMethod("joint", "joint training, beta = 1, score averaging: learner collusion",
                   _loss("joint", beta=1.0, averaging="scores")),
    # All members see every batch, as separate training from one start would show them: nothing can part them.
    EnsembleMethod("independent-shared-start", "independent members from the very same weights",
                   _loss("independent", active=5), shared_start=True),
    EnsembleMethod("ldr-shared-start", "LDR from the very same weights", _loss("ldr"), shared_start=True),
)  # fmt: skip
