"""ViM: the part of a feature outside the principal subspace, as one more logit.

Wang et al. 2022. With o = -pinv(W) b, R the smallest D - d principal directions of the training features h - o, and
alpha the training mean of max_c f_c over the training mean of ||R^T (h - o)||,

    score = softmax([f, alpha * ||R^T (h - o)||])_{C + 1}

which is higher for OOD, as here; we return `alpha ||R^T (h - o)|| - logsumexp f`, the same ranking without saturation.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Vim(BaseModel):
    """Fitted constants."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    origin: Tensor
    residual: Tensor
    alpha: float

    @classmethod
    def fit(cls, embeddings: Tensor, head: nn.Linear) -> Vim:
        """From training embeddings `[N, D]` and the classifier. Half the directions are principal, at most 512."""
        weight, bias = head.weight.detach().double(), head.bias.detach().double()
        origin = -torch.linalg.pinv(weight) @ bias
        centred = embeddings.double() - origin
        width = centred.shape[1]
        principal = min(512, width // 2)
        _, axes = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
        residual = axes[:, : width - principal]
        norms = (centred @ residual).norm(dim=1)
        largest = (embeddings.double() @ weight.T + bias).amax(-1)
        return cls(origin=origin, residual=residual, alpha=float(largest.mean() / norms.mean().clamp_min(1e-12)))

    def score(self, embeddings: Tensor, logits: Tensor) -> Tensor:
        """`[B]`, higher = more OOD."""
        virtual = self.alpha * ((embeddings.double() - self.origin) @ self.residual).norm(dim=1)
        found: Tensor = virtual - logits.double().logsumexp(-1)
        return found.float()
