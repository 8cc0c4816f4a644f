"""Mahalanobis distances to Gaussians of the classes, in variants: relative, and of features of unit length.

Lee et al. 2018; Ren et al. 2021 (relative); Mueller & Hein 2025 (Mahalanobis++: z = h / ||h||). With class means mu_c,
their shared covariance S, the mean mu_0 and covariance S_0 of all training images,

    d_c^2 = (z - mu_c)^T S^-1 (z - mu_c),   d_0^2 = (z - mu_0)^T S_0^-1 (z - mu_0)
    plain: min_c d_c,   relative: min_c d_c^2 - d_0^2

The sources score ID higher by their negatives; ours is the plain distance itself, which ranks as its square does.
Deviation: both covariances are shrunk towards a multiple of the identity by oracle approximating shrinkage (Chen et al.
2010), since there are often more coordinates than training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.covariance import oas
from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.post_hoc import Embedded, Fit, LearnedClassifier, Score


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of one covariance: means `[K, D]`, and `whitening [D, D]` with S^-1 = W W^T."""

    means: Tensor
    whitening: Tensor

    @classmethod
    def of(cls, z: Tensor, labels: Tensor, *, shrinkage: float | None = None) -> Gaussians:
        """Of features `[N, D]` with labels `[N]` from 0 to K - 1.

        shrinkage: the part of S that becomes the identity times its mean variance; None: estimated.
        """
        means = torch.stack([z[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
        within = z - means[labels]
        covariance = within.T @ within / len(z)
        if shrinkage is None:
            _, shrinkage = oas(within.numpy(), assume_centered=True)
        identity = torch.eye(z.shape[1], dtype=z.dtype)
        shrunk = (1.0 - shrinkage) * covariance + shrinkage * covariance.diagonal().mean() * identity
        lower = torch.linalg.cholesky(shrunk)
        return cls(means, torch.linalg.solve_triangular(lower, identity, upper=False).T)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances `[B, K]` of features `[B, D]`."""
        white, centres = z @ self.whitening, self.means @ self.whitening
        return torch.cdist(white, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


def class_gaussians(*, unit: bool, relative: bool, shrinkage: float | None = None) -> Fit:
    """One of the four variants. unit: of features of unit length; relative: less the distance to all images."""

    def prepared(features: Tensor) -> Tensor:
        wide = features.double()
        return functional.normalize(wide) if unit else wide

    def fit(learned: LearnedClassifier) -> Score:
        z = prepared(learned.training.features)
        classes = Gaussians.of(z, learned.targets, shrinkage=shrinkage)
        everything = Gaussians.of(z, torch.zeros_like(learned.targets), shrinkage=shrinkage) if relative else None

        def score(images: Embedded) -> Tensor:
            z = prepared(images.features)
            nearest = classes.distances(z).amin(-1)
            if everything is None:
                return nearest.sqrt().float()
            return (nearest - everything.distances(z).squeeze(-1)).float()

        return score

    return fit
