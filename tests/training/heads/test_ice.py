from __future__ import annotations

import math

import pytest
import torch

from oodguard.training.compute import cpu_threads
from oodguard.training.heads.guard import ICE_WEIGHT
from oodguard.training.heads.ice import IceHead, heights, ice_loss, log_complement, mixed_outliers


def test_centre_has_confidence_one_and_identity_gives_squared_distance() -> None:
    centres = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    h = heights(torch.tensor([[0.0, 0.0]]), centres, torch.eye(2))
    torch.testing.assert_close(h, torch.tensor([[0.0, -25.0]]))
    assert h.amax().exp().item() == 1.0


def test_heights_are_the_quadratic_form_and_a_linear_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    z, m = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    factor = torch.tril(torch.randn(3, 3, generator=generator)).abs() + torch.eye(3)
    inverse = torch.linalg.inv(factor @ factor.T)
    direct = -torch.stack([((z - c) @ inverse * (z - c)).sum(-1) for c in m], dim=1)
    torch.testing.assert_close(heights(z, m, factor), direct, rtol=1e-4, atol=1e-4)
    linear = z @ (2 * inverse @ m.T) - (m @ inverse * m).sum(-1)
    torch.testing.assert_close(heights(z, m, factor).softmax(-1), linear.softmax(-1), rtol=1e-4, atol=1e-5)


def test_log_complement_is_finite_at_zero_and_exact_at_minus_log_two() -> None:
    assert log_complement(torch.tensor(-math.log(2.0))).item() == pytest.approx(math.log(2.0), rel=1e-6)
    assert torch.isinf(-torch.log(1 - torch.exp(torch.tensor(-1e-8))))
    assert torch.isfinite(log_complement(torch.tensor(-1e-8)))
    h = torch.tensor([-1e-8, -0.3, -0.8, -50.0], requires_grad=True)
    log_complement(h).sum().backward()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()
    torch.testing.assert_close(
        log_complement(torch.tensor([-0.3, -5.0], dtype=torch.float64)),
        torch.tensor([-math.log(1 - math.exp(-0.3)), -math.log(1 - math.exp(-5.0))], dtype=torch.float64),
    )


def test_initialisation_starts_at_class_means_with_heights_near_minus_one() -> None:
    torch.manual_seed(0)
    targets = torch.arange(300) % 3
    features = torch.randn(300, 20) + 4 * torch.eye(3, 20)[targets]
    head = IceHead(width=20, ice_width=8, classes=3)
    head.initialise(features, targets)
    own = head(features).gather(1, targets.unsqueeze(1))
    assert -2.0 < own.mean().item() < -0.4
    assert (head(features).argmax(1) == targets).float().mean() > 0.95
    upper = torch.triu(head.factor(), 1)
    assert upper.abs().max() == 0
    assert head.factor().diagonal().min() > 0


def test_loss_pulls_images_in_and_pushes_outliers_out() -> None:
    targets = torch.tensor([0])
    near, far = torch.tensor([[-0.1, -9.0]]), torch.tensor([[-3.0, -9.0]])
    assert ice_loss(near, targets, far) < ice_loss(far, targets, far)
    assert ice_loss(near, targets, far) < ice_loss(near, targets, near)
    assert torch.isfinite(ice_loss(near, targets, near[:0]))


def test_mixed_outliers_lie_between_two_classes() -> None:
    torch.manual_seed(0)
    features = torch.cat([torch.zeros(40, 1), torch.ones(40, 1)])
    targets = torch.cat([torch.zeros(40), torch.ones(40)]).long()
    mixed = mixed_outliers(features, targets)
    assert 0 < len(mixed) <= 80
    assert mixed.min() >= 0.3
    assert mixed.max() <= 0.7


def trained(weight: float) -> float:
    """How much farther from its nearest centre strange features lie than held-out ones, on a feature not tuned."""
    torch.manual_seed(0)
    targets = torch.arange(240) % 4
    spread = torch.linspace(4.0, 0.2, 60)  # as of a network's feature: few directions hold most of the variance
    centres = torch.randn(4, 60) * spread * 0.5

    def photos(count: int) -> torch.Tensor:
        return centres[targets[:count]] + torch.randn(count, 60) * spread

    features, held = photos(240), photos(200)
    strange = torch.randn(200, 60) * 0.2 * spread  # near the middle of all classes, as strange photos are
    head = IceHead(width=60, ice_width=16, classes=4)
    head.initialise(features, targets)
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(300):
        rows = torch.randint(240, (64,))
        outside = mixed_outliers(features[rows], targets[rows])
        loss = ice_loss(head(features[rows]), targets[rows], head(outside), weight=weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        distances = [-head(x).amax(1) for x in (held, strange)]
    return float((distances[1].unsqueeze(1) > distances[0]).float().mean())


def test_its_own_terms_weigh_enough_not_to_invert_it() -> None:
    with cpu_threads(1):
        assert trained(0.0) < 0.3
        assert trained(ICE_WEIGHT) > trained(0.1)
