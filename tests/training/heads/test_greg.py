from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.fusion import FusedFamily, Fusion
from oodguard.core.scores import CERTIFIED, Family
from oodguard.core.verdict import Outputs
from oodguard.training.heads import scores
from oodguard.training.heads.energy import Margins
from oodguard.training.heads.greg import (
    cluster_sample,
    gradient_loss,
    gradient_norms,
    linear_gradient_norms,
    lipschitz,
)

MARGINS = Margins(inside=-5.0, outside=-2.0)


def served_radius(energies: Tensor, threshold: float, weight: Tensor) -> Tensor:
    """The radius that an answer carries, `[B]`: by the calibration of a score with this threshold and constant."""
    curve = QuantileCurve.fit([threshold] * 99)
    alone = FusedFamily(family=Family.CONFIDENCE, share=1.0, scores=(CERTIFIED.name,), curve=curve)
    calibration = Calibration(
        curves={CERTIFIED.name: curve},
        fusion=Fusion(families=(alone,), curve=curve),
        lipschitz={CERTIFIED.name: float(lipschitz(weight.detach()))},
    )
    outputs = Outputs(probabilities=np.full((len(energies), 2), 0.5), scores=energies.detach().numpy()[:, None])
    radii = [verdict.certified_radius for verdict in calibration.judge(outputs, classes=("a", "b"))]
    return torch.tensor(radii, dtype=torch.float64)


def linear(classes: int = 4, width: int = 6) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, classes).double()


def test_closed_form_and_autograd_agree_for_a_linear_head() -> None:
    head = linear()
    x = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    by_autograd = gradient_norms(scores.energy(head(x)), x)
    torch.testing.assert_close(linear_gradient_norms(head(x), head.weight), by_autograd)
    p = head(x).softmax(-1)
    torch.testing.assert_close(by_autograd, (p @ head.weight).square().sum(1).sqrt())


def test_norms_are_per_image_and_can_be_trained_on() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    norms = gradient_norms(scores.energy(network(x)), x)
    step = 1e-6
    for i in range(5):
        slopes = []
        for j in range(12):
            moved = x.detach().clone()
            moved[i].view(-1)[j] += step
            slopes.append((scores.energy(network(moved))[i] - scores.energy(network(x))[i]).item() / step)
        assert norms[i].item() == pytest.approx(math.hypot(*slopes), rel=1e-4)
    norms.sum().backward()
    weight = network[1].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_only_images_on_their_side_are_smoothed() -> None:
    inside, outside = torch.tensor([-6.0, -5.0, -1.0, -1.0]), torch.tensor([-2.0, -9.0])
    norms_in, norms_out = torch.tensor([1.0, 2.0, 100.0, 100.0]), torch.tensor([8.0, 100.0])
    found = gradient_loss(inside, outside, norms_in, norms_out, MARGINS)
    assert found.item() == pytest.approx((1 + 2) / 4 + 8 / 2)


def test_masked_images_leave_no_trace_in_the_gradient_not_even_where_a_norm_is_zero() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    norms = x.norm(dim=1)
    gradient_loss(torch.tensor([-6.0, 0.0]), torch.tensor([-9.0]), norms, norms[1:], MARGINS).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[0.3, 0.4], [0.0, 0.0]]))
    y = torch.ones(3, requires_grad=True)
    nothing = gradient_loss(torch.zeros(3), torch.full((3,), -9.0), y, y, MARGINS)
    assert nothing.item() == 0.0


def test_lipschitz_constant_is_the_longest_row_and_no_direction_beats_it() -> None:
    head = linear()
    bound = lipschitz(head.weight)
    assert bound.item() == pytest.approx(max(row.norm().item() for row in head.weight))
    x = 20 * torch.randn(2000, 6, dtype=torch.float64)
    norms = linear_gradient_norms(head(x), head.weight)
    assert norms.max() <= bound + 1e-12
    # Tight: where one class takes all the mass.
    assert norms.max() > 0.999 * bound


@pytest.mark.parametrize("offset", [-1.5, 1.5])
def test_no_adversary_crosses_within_the_certified_radius(offset: float) -> None:
    head = linear()
    x = torch.randn(40, 6, dtype=torch.float64)
    energies = scores.energy(head(x)).detach()
    threshold = float(energies.median()) + offset
    radius = served_radius(energies, threshold, head.weight)
    assert (radius >= 0).all()
    side = energies > threshold
    moved = x.clone()
    for _ in range(50):
        # The steepest way towards the threshold, on the border of the certified ball.
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(scores.energy(head(moved)).sum(), moved)
        direction = torch.where(side, -1.0, 1.0).double()[:, None] * slope
        step = moved.detach() + direction / direction.norm(dim=1, keepdim=True) * radius[:, None] / 10
        away = step - x
        shrink = (radius * (1 - 1e-9) / away.norm(dim=1).clamp_min(1e-12)).clamp_max(1.0)
        moved = x + away * shrink[:, None]
        assert ((scores.energy(head(moved)) > threshold) == side).all()


def test_the_certificate_is_tight_where_one_class_takes_all() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[30.0, 40.0]], dtype=torch.float64)
    energy = scores.energy(x @ weight.T)
    threshold = float(energy) + 10.0
    radius = served_radius(energy, threshold, weight)
    assert radius.item() == pytest.approx(10.0 / 5.0)
    direction = -weight[:1] / 5.0
    assert scores.energy((x + 0.999 * radius * direction) @ weight.T) < threshold
    assert scores.energy((x + 1.001 * radius * direction) @ weight.T) > threshold


def test_each_cluster_gives_its_lowest_and_its_highest_energy() -> None:
    torch.manual_seed(0)
    axes = torch.eye(3).repeat_interleave(5, 0)
    lengths = torch.tensor([1.0, 90.0, 30.0]).repeat(5)[:, None]  # direction alone makes a cluster
    embeddings = lengths * (axes + 0.01 * torch.randn(15, 3))
    energies = torch.tensor([3.0, 1, 2, 5, 4, 30, 10, 20, 50, 40, -3, -1, -2, -5, -4])
    logits = -energies[:, None] + torch.tensor([[0.0, -90.0]])
    chosen = cluster_sample(embeddings, logits, 3, seed=0)
    assert chosen.tolist() == [1, 3, 6, 8, 11, 13]


def test_clusters_of_one_give_one_and_duplicates_make_no_empty_cluster() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    assert cluster_sample(embeddings, logits, 8, seed=0).tolist() == [0, 1, 2]
    assert cluster_sample(embeddings[:1], logits[:1], 4, seed=0).tolist() == [0]
