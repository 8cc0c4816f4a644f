"""Feature density: how far an image is from the training photos. k-nearest neighbours and Mahalanobis.

Both work on L2-normalised features u = x/||x|| (Sun et al. 2022), split into the first d principal coordinates
q = P^T (u - mu) and the rest, of which only the squared length r^2 = ||u - mu||^2 - ||q||^2 is kept. For a training
image b,

    ||u - u_b||^2 = ||q - q_b||^2 + ||rest - rest_b||^2  ~  ||q - q_b||^2 + r^2 + r_b^2

since the rests of two different photos are nearly orthogonal. That makes the bank ten times smaller than the
features, and it keeps the residual, which carries most of the signal far from the data (the insight of ViM).
The nearest photos that an explanation names are ranked by another distance, because a photo's rest is not orthogonal to
itself: by ||q - q_b||^2 + (r - r_b)^2, the least that ||u - u_b||^2 can be, and 0 for a training photo and itself.

Mahalanobis treats the rest in the same way, as in probabilistic PCA: the shared within-class covariance on the d
coordinates, one variance for all the others.

The feature of a classifier that was trained whole, and on these very photos, is another matter (`collapsed`): its
coordinates have scales that the labels chose, and the photos lie closer together than new ones will. There u is
(x - m)/s / ||(x - m)/s|| with m and s the mean and deviation of each coordinate, and `COLLAPSED_SHRINKAGE` mean
variances are added to every direction, the rest included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from oodguard.core.bank import NEAREST
from oodguard.training.heads.scores import squared_distances

DENSITY_WIDTH = 128
SHRINKAGE = 0.1
# In mean variances within classes over all D directions. From 1 to 10 it changes far OOD by a point or two.
COLLAPSED_SHRINKAGE = 3.0
# The least share of the variance that is taken to lie outside the principal coordinates: with few training images
# they fit all of it, and a residual of rounding errors would be divided by next to nothing.
MIN_RESIDUAL_SHARE = 0.02


def density_width(width: int, images: int) -> int:
    """d, the principal coordinates kept of features of a `width`: no more than `images` training images can bear."""
    return max(1, min(DENSITY_WIDTH, width, images // 4))


class Density(nn.Module):
    """Squared distances of features to a bank of training images and to the class means."""

    mean: Tensor
    projection: Tensor
    bank: Tensor
    bank_residual: Tensor
    whitening: Tensor
    class_means: Tensor
    residual_precision: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, *, width: int, density_width: int, classes: int, bank: int, collapsed: bool = False) -> None:
        super().__init__()
        self.collapsed = collapsed
        if collapsed:
            self.register_buffer("centre", torch.zeros(width))
            self.register_buffer("spread", torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, density_width))
        self.register_buffer("bank", torch.zeros(bank, density_width))
        self.register_buffer("bank_residual", torch.zeros(bank))
        self.register_buffer("whitening", torch.zeros(density_width, density_width))
        self.register_buffer("class_means", torch.zeros(classes, density_width))
        self.register_buffer("residual_precision", torch.zeros(()))

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """From training features `[N, D]` and labels `[N]`. The bank is a class-balanced subset where N exceeds it."""
        if self.collapsed:
            self.centre.copy_(features.mean(0))
            deviation = features.std(0)
            self.spread.copy_(deviation.clamp_min(1e-3 * deviation.mean()).clamp_min(1e-6))
        unit = self._unit(features)
        self.mean.copy_(unit.mean(0))
        centred = unit - self.mean
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        width = self.projection.shape[1]
        self.projection[:, : len(axes)] = axes[:width].T
        q, residual = self.coordinates(features)
        chosen = bank_rows(targets, len(self.bank))
        self.bank.copy_(q[chosen])
        self.bank_residual.copy_(residual[chosen])
        means = torch.stack([q[targets == label].mean(0) for label in range(len(self.class_means))])
        within = q - means[targets]
        covariance = within.T @ within / len(q)
        spare = max(features.shape[1] - width, 1)
        if self.collapsed:
            rest = residual.mean()
            added = COLLAPSED_SHRINKAGE * (covariance.diagonal().sum() + rest) / features.shape[1]
        else:
            rest, added = residual.mean(), SHRINKAGE * covariance.diagonal().mean()
        covariance += added * torch.eye(width)
        identity = torch.eye(width)
        self.whitening.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False).T)
        self.class_means.copy_(means @ self.whitening)
        floor = MIN_RESIDUAL_SHARE * centred.square().sum(-1).mean()
        if self.collapsed:
            rest = rest + spare * added
        self.residual_precision.copy_(spare / torch.maximum(rest, floor).clamp_min(1e-6))

    def coordinates(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`q [B, d]` and `r^2 [B]` of features `[B, D]`."""
        unit = self._unit(features) - self.mean
        q = unit @ self.projection
        return q, (unit.square().sum(-1) - q.square().sum(-1)).clamp_min(0.0)

    def _unit(self, features: Tensor) -> Tensor:
        return functional.normalize((features - self.centre) / self.spread if self.collapsed else features)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances to the bank `[B, N]` and squared Mahalanobis distances to the class means `[B, C]`."""
        return self.distances(*self.coordinates(features))

    def distances(self, q: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from the features' coordinates."""
        to_bank = squared_distances(q, self.bank) + residual.unsqueeze(1) + self.bank_residual
        to_means = squared_distances(q @ self.whitening, self.class_means)
        return to_bank, to_means + (residual * self.residual_precision).unsqueeze(1)

    def nearest(self, q: Tensor, residual: Tensor, to_bank: Tensor) -> tuple[Tensor, Tensor]:
        """The bank rows nearest to images with these coordinates, `[B, K]` int32, and their distances `[B, K]`.

        K is `NEAREST`, or the size of a smaller bank. The distance is sqrt(||q - q_b||^2 + (r - r_b)^2). It is computed
        anew for the few rows found: `to_bank`, an expanded square, has no digits left next to 0.
        """
        root = residual.sqrt()
        squared = to_bank - 2.0 * root.unsqueeze(1) * self.bank_residual.sqrt()
        rows = squared.topk(min(NEAREST, len(self.bank)), dim=-1, largest=False).indices
        near = functional.embedding(rows, self.bank)
        near_root = functional.embedding(rows, self.bank_residual.sqrt().unsqueeze(1)).squeeze(-1)
        exact = (near - q.unsqueeze(1)).square().sum(-1) + (near_root - root.unsqueeze(1)).square()
        return rows.to(torch.int32), exact.sqrt()


def bank_rows(targets: Tensor, size: int) -> Tensor:
    """Which training images of classes `targets [N]` are in a bank of at most `size`, in its order.

    They are taken class by class in turn (no randomness: the same data, the same bank).
    """
    if len(targets) <= size:
        return torch.arange(len(targets))
    turn = torch.zeros_like(targets)
    for label in range(int(targets.max()) + 1):
        members = targets == label
        turn[members] = torch.arange(int(members.sum()))
    return torch.argsort(turn, stable=True)[:size].sort().values
