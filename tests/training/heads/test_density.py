from __future__ import annotations

import torch
from torch.nn import functional

from oodguard.training.heads.density import Density
from oodguard.training.heads.scores import knn, mahalanobis


def fitted(bank: int = 200, width: int = 6) -> tuple[Density, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.arange(200) % 2
    features = torch.rand(200, 40) * 0.2 + 3 * torch.eye(2, 40)[targets]
    density = Density(width=40, density_width=width, classes=2, bank=bank)
    density.fit(features, targets)
    return density, features, targets


def test_with_all_coordinates_the_distances_are_exact() -> None:
    density, features, _ = fitted(width=40)
    to_bank, _ = density(features[:5])
    exact = torch.cdist(functional.normalize(features[:5]), functional.normalize(features)).square()
    torch.testing.assert_close(to_bank, exact, atol=1e-4, rtol=1e-3)


def test_residual_flags_directions_the_training_data_never_used() -> None:
    density, features, _ = fitted()
    stranger = functional.normalize(torch.rand(5, 40))
    for score in (lambda f: knn(density(f)[0], 5), lambda f: mahalanobis(density(f)[1])):
        assert score(stranger).min() > score(features).quantile(0.99)


def test_a_smaller_bank_is_balanced_over_classes_and_keeps_the_distance() -> None:
    density, features, targets = fitted(bank=20)
    whole, _, _ = fitted(bank=200)
    q, _ = whole.coordinates(features)
    labels = [int(targets[(q - entry).square().sum(-1).argmin()]) for entry in density.bank]
    assert labels.count(0) == labels.count(1) == 10
    assert knn(density(features)[0], 5).mean() >= knn(whole(features)[0], 5).mean()
