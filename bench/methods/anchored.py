"""`amp`: a network anchored at its input, and Anchor Marginalized Prediction over K fixed anchors.

The paper's own setting: the whole network sees [c, x - c] (twice the input channels, only the first layer changes).
Training draws one anchor per image from the batch; every fifth step shows T(c), a corrupted anchor, beside the residual
from the clean one. Inference averages over K clean training images that are stored with the weights.

`networks/anchoring.py` turns any network into an anchored one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.softmax import max_softmax
from oodguard.bench.methods.classifier import LABEL_SMOOTHING, train_network
from oodguard.bench.methods.method import Detector, MethodOutput, Progress
from oodguard.bench.networks.network import Network
from oodguard.bench.problem import LearningProblem
from oodguard.core.errors import InputError
from oodguard.training.heads import scores
from oodguard.training.heads.anchoring import CONSISTENCY_EVERY

LARGEST_BATCH = 1024


class AnchoredDetector(Detector):
    """An anchored network and its K anchors `[K, ...]`; scores: AMP with tau averaged and summed over classes."""

    anchors: Tensor

    def __init__(self, network: Network, anchors: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("anchors", anchors)

    def logits(self, x: Tensor) -> Tensor:
        """`[B, K, C]` under every anchor: one folded batch of B K inputs."""
        anchors = self.anchors
        shown = anchors.unsqueeze(0).expand(len(x), *anchors.shape)
        pairs = torch.cat([shown, x.unsqueeze(1) - shown], dim=2)
        folded: Tensor = self.network(pairs.flatten(0, 1))
        return folded.view(len(x), len(anchors), -1)

    @torch.no_grad()
    def output(self, x: Tensor) -> MethodOutput:
        """AMP, and the energy of the anchors' mean prediction."""
        # Every image counts K times.
        size = max(LARGEST_BATCH // len(self.anchors), 1)
        logits = torch.cat([self.logits(rows) for rows in torch.split(x, size)])
        mean = logits.mean(1)
        return MethodOutput(
            logits=logits.transpose(0, 1),
            log_probabilities=mean.log_softmax(-1),
            scores={
                "amp": scores.amp(logits),
                "amp_sum": scores.amp(logits, reduce="sum"),
                "energy": scores.energy(mean),
                "max_softmax": max_softmax(mean),
            },
        )


@dataclass(frozen=True)
class AnchoredMethod:
    """Anchored training from scratch, or other anchors for the trained network of `starts_from`.

    consistent: with T; anchors: K.
    """

    name: str
    summary: str
    anchors: int = 5
    consistent: bool = True
    needs_outliers: bool = False
    starts_from: str | None = None

    def __post_init__(self) -> None:
        """Refuse what has no spread over anchors. Raises `InputError`."""
        if self.anchors < 2:
            raise InputError(f"AMP needs at least 2 anchors, K, for their spread; got {self.anchors}")

    def build(self, problem: LearningProblem) -> AnchoredDetector:
        """An untrained anchored network, and K training images."""
        chosen = torch.randperm(len(problem.targets))[torch.arange(self.anchors) % len(problem.targets)]
        anchors = problem.space.plain(problem.inputs[0][chosen])
        return AnchoredDetector(problem.space.network(classes=problem.classes, anchored=True), anchors)

    def train(
        self,
        detector: Detector,
        problem: LearningProblem,
        *,
        compute: Fabric,
        start: Detector | None,
        progress: Progress | None,
    ) -> None:
        """From scratch. Anchors are drawn in inference alone, so that another K needs no other training."""
        assert isinstance(detector, AnchoredDetector)
        if start is not None:
            assert isinstance(start, AnchoredDetector)
            detector.network.load_state_dict(start.network.state_dict())
            return

        def loss(net: Network, x: Tensor, y: Tensor, step: int) -> Tensor:
            anchors = x[torch.randperm(len(x))]
            shown = problem.space.corrupt(anchors) if self.consistent and step % CONSISTENCY_EVERY == 0 else anchors
            return functional.cross_entropy(
                net(torch.cat([shown, x - anchors], dim=1)), y, label_smoothing=LABEL_SMOOTHING
            )

        train_network(detector.network, problem, compute, problem.space.scratch, progress, loss)


ANCHORED_METHODS = (
    AnchoredMethod("amp", "anchored network with consistency training (AMP), K = 5"),
    AnchoredMethod("amp-plain", "AMP without consistency training", consistent=False),
    AnchoredMethod("amp-2", "the network of amp with K = 2 anchors", anchors=2, starts_from="amp"),
    AnchoredMethod("amp-20", "the network of amp with K = 20 anchors", anchors=20, starts_from="amp"),
)
