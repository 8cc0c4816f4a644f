"""ICE: In-distribution Compatible outlier Exposure, a trainable Gaussian top.

Paper: ICE. For a projected feature z = R x,

    h_i(z) = -(z - m_i)^T (L L^T)^{-1} (z - m_i)                                                     (0.11)
    L_ice = CE(softmax h, y) + w * [ mean(-h_y) + mean over outliers of -log(1 - exp(max_i h_i)) ]     (0.13-0.15)

with trainable centres m_i and a lower-triangular L with positive diagonal. Confidence is exp(max_i h_i) in (0, 1].

What the paper leaves open, and our choice: z is a projection to 64 dimensions that starts at the principal axes; m_i
starts at the class means; L at the shrunk within-class covariance times the dimension, so that -h is about 1 on
training data; the diagonal is softplus; the solve is triangular, never an inverse; w = 0.1 beside real outliers.
Outliers are the user's, where there are any, and mixtures of two images of different classes (no outlier data is
needed). Mixtures alone need a larger w (`heads/guard.py`): with 0.1 the score inverts on a feature that was not tuned,
where strange photos then lie nearer to a centre than held-out ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHT = 0.1
MIX = 0.3
MIN_DIAGONAL = 1e-4
MAX_HEIGHT = -1e-6
SHRINKAGE = 0.5


class IceHead(nn.Module):
    """Heights `h [B, C] <= 0` of features `[B, D]`."""

    def __init__(self, *, width: int, ice_width: int, classes: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.zeros(width, ice_width))
        self.centres = nn.Parameter(torch.zeros(classes, ice_width))
        self.raw_factor = nn.Parameter(torch.zeros(ice_width, ice_width))

    @torch.no_grad()
    def initialise(self, features: Tensor, targets: Tensor) -> None:
        """Principal axes, class means and within-class covariance of training features `[N, D]`."""
        width = self.projection.shape[1]
        _, _, axes = torch.linalg.svd(features - features.mean(0), full_matrices=False)
        self.projection[:, : len(axes)] = axes[:width].T
        z = features @ self.projection
        for label in range(len(self.centres)):
            self.centres[label] = z[targets == label].mean(0)
        within = z - self.centres[targets]
        covariance = within.T @ within / len(z)
        scale = covariance.diagonal().mean().clamp_min(1e-6)
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * torch.eye(width)
        factor = torch.linalg.cholesky(covariance) * math.sqrt(width)
        diagonal = (factor.diagonal() - MIN_DIAGONAL).clamp_min(1e-6)
        # Inverse softplus, so that `factor()` returns this very matrix.
        self.raw_factor.copy_(factor.tril(-1) + torch.diag(diagonal + torch.log(-torch.expm1(-diagonal))))

    def factor(self) -> Tensor:
        """L: lower triangular with positive diagonal, `[d, d]`."""
        diagonal = functional.softplus(self.raw_factor.diagonal()) + MIN_DIAGONAL
        return self.raw_factor.tril(-1) + torch.diag(diagonal)

    def forward(self, features: Tensor) -> Tensor:
        """`h_i(z)` for every class, by triangular solves of z and of the centres."""
        # A GPU computes the product in bfloat16, which no triangular solve takes.
        return heights((features @ self.projection).float(), self.centres, self.factor())


def heights(z: Tensor, centres: Tensor, factor: Tensor) -> Tensor:
    """Eq. 0.11: `h [B, C]` of `z [B, d]`, `centres [C, d]` and L `[d, d]`.

    z = m_i gives 0; L = I gives -||z - m_i||^2.
    """
    white_z = torch.linalg.solve_triangular(factor, z.T, upper=False).T
    white_m = torch.linalg.solve_triangular(factor, centres.T, upper=False).T
    found: Tensor = -(white_z.unsqueeze(1) - white_m.unsqueeze(0)).square().sum(-1)
    return found


def log_complement(h: Tensor) -> Tensor:
    """`-log(1 - exp(h))` for h <= 0 without overflow: finite at h = 0, where it is clamped.

    At h = -log 2 it is log 2.
    """
    h = h.clamp_max(MAX_HEIGHT)
    near = -torch.log(-torch.expm1(h.clamp_min(-1.0)))
    far = -torch.log1p(-torch.exp(h.clamp_max(-0.5)))
    return torch.where(h > -math.log(2.0), near, far)


def ice_loss(h: Tensor, targets: Tensor, outlier_h: Tensor, *, weight: float = WEIGHT) -> Tensor:
    """Eq. 0.15 for heights of training images `[B, C]` and of outliers `[N, C]`: a scalar."""
    classify = functional.cross_entropy(h, targets)
    inside = -h.gather(1, targets.unsqueeze(1)).mean()
    outside = log_complement(outlier_h.amax(-1)).mean() if len(outlier_h) else h.new_zeros(())
    return classify + weight * (inside + outside)


def mixed_outliers(features: Tensor, targets: Tensor, *, mix: float = MIX) -> Tensor:
    """Outliers without outlier data: `t x_i + (1 - t) x_j` for y_i != y_j, t uniform in [mix, 1 - mix]."""
    order = torch.randperm(len(features))
    t = torch.empty(len(features), 1).uniform_(mix, 1.0 - mix).to(features.device)
    mixture = t * features + (1.0 - t) * features[order]
    return mixture[targets != targets[order]]
