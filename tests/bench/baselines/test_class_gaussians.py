from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import OAS

from oodguard.bench.baselines.class_gaussians import Gaussians


def test_more_coordinates_than_images() -> None:
    """Against the shrunk covariance that scikit-learn inverts."""
    torch.manual_seed(0)
    z, labels = torch.randn(30, 50, dtype=torch.float64), torch.arange(30) % 3
    found = Gaussians.of(z, labels)
    within = (z - found.means[labels]).numpy()
    precision = OAS(assume_centered=True).fit(within).precision_
    away = (z[:5, None] - found.means).numpy()
    expected = np.einsum("bkd,de,bke->bk", away, precision, away)
    np.testing.assert_allclose(found.distances(z[:5]).numpy(), expected, rtol=1e-8)
