"""What a guard says of N images, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oodguard.core.calibration import Calibration
from oodguard.core.curve import Scores
from oodguard.core.scores import ScoreName
from oodguard.training.backbone.features import Activations
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.tail import tail_features
from oodguard.training.heads.guard import GuardHeads
from oodguard.training.photos.division import Labels


@dataclass(frozen=True)
class Answers:
    """A guard's raw answers for N images: probabilities, every member's vote `[M, N]`, and the scores by name.

    Votes are of the classes that the probabilities are of.
    """

    probabilities: npt.NDArray[np.float32]
    votes: Labels
    scores: dict[ScoreName, Scores]

    def fused(self, calibration: Calibration) -> Scores:
        """The fused score of each image, `[N]`."""
        return calibration.score(self.scores, self.probabilities.argmax(1))


@torch.no_grad()
def answers(backbone: Backbone, heads: GuardHeads, activations: Activations) -> Answers:
    """A guard's answers for cached trunk activations `[N, ...]`."""
    return head_answers(heads, tail_features(backbone.tail, activations))


@torch.no_grad()
def head_answers(heads: GuardHeads, features: Tensor) -> Answers:
    """A guard's answers for rows `[N, R]`."""
    logits, table = heads(features)
    columns = table.double().numpy()
    return Answers(
        probabilities=heads.probabilities(features, logits).numpy(),
        votes=votes(heads, logits),
        scores={name: columns[:, i] for i, name in enumerate(heads.shapes.scores)},
    )


def votes(heads: GuardHeads, logits: Tensor) -> Labels:
    """Every member's class `[M, N]` from ensemble logits `[M, N, K]`, among the classes of the probabilities."""
    found = logits.argmax(-1).numpy()
    return np.asarray(heads.shapes.covered)[found] if heads.shapes.covered else found
