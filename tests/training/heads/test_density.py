from __future__ import annotations

import torch
from torch.nn import functional

from oodguard.training.heads.density import Density, bank_rows
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


def test_the_nearest_are_those_of_a_plain_search() -> None:
    density, features, _ = fitted()
    torch.manual_seed(1)
    asked = torch.cat([features[:4] + 0.05 * torch.rand(4, 40), torch.rand(4, 40)])
    q, residual = density.coordinates(asked)
    rows, distances = density.nearest(q, residual, density(asked)[0])
    points = torch.cat([q, residual.sqrt().unsqueeze(1)], dim=1)
    bank = torch.cat([density.bank, density.bank_residual.sqrt().unsqueeze(1)], dim=1)
    expected = torch.cdist(points.double(), bank.double()).sort(dim=1)
    assert rows.dtype is torch.int32
    torch.testing.assert_close(rows.long(), expected.indices[:, :3])
    torch.testing.assert_close(distances.double(), expected.values[:, :3], atol=1e-5, rtol=1e-4)
    # Never more than the distance between the features themselves, and for a photo of the bank 0.
    real = torch.cdist(functional.normalize(asked), functional.normalize(features))
    assert (distances <= real.gather(1, rows.long()) + 1e-4).all()
    q, residual = density.coordinates(features[:20])
    rows, distances = density.nearest(q, residual, density(features[:20])[0])
    assert rows[:, 0].tolist() == list(range(20))
    assert distances[:, 0].max() == 0.0


def test_a_bank_of_two_names_two() -> None:
    density = Density(width=40, density_width=6, classes=2, bank=2)
    _, features, targets = fitted()
    density.fit(features, targets)
    assert bank_rows(targets, 2).tolist() == [0, 1]
    q, residual = density.coordinates(features[:3])
    assert density.nearest(q, residual, density(features[:3])[0])[0].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_the_bank_takes_classes_in_turn() -> None:
    assert bank_rows(torch.tensor([0, 0, 0, 0, 1, 2, 2]), 5).tolist() == [0, 1, 4, 5, 6]
    assert bank_rows(torch.tensor([1, 0]), 5).tolist() == [0, 1]
