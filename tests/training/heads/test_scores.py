"""Scores against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from oodguard.training.heads import scores

BIG = 60.0


def one_hot(votes: list[int], classes: int) -> torch.Tensor:
    logits = torch.full((len(votes), 1, classes), -BIG)
    for member, vote in enumerate(votes):
        logits[member, 0, vote] = BIG
    return logits


@pytest.mark.parametrize(("votes", "unique"), [([0, 0, 0], 1), ([0, 1, 0], 2), ([0, 1, 2], 3)])
def test_pds_of_one_hot_members_counts_their_distinct_votes(votes: list[int], unique: int) -> None:
    assert scores.pds(one_hot(votes, 4)).item() == pytest.approx(unique / 4)


def test_pds_of_identical_members_is_one_over_c() -> None:
    logits = torch.randn(1, 5, 7).expand(4, -1, -1)
    torch.testing.assert_close(scores.pds(logits), torch.full((5,), 1 / 7))


def test_pds_of_two_members_is_one_plus_total_variation_over_c() -> None:
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    p, q = logits.softmax(-1)
    torch.testing.assert_close(scores.pds(logits), (1 + 0.5 * (p - q).abs().sum(-1)) / 5)


def test_average_energy_of_zero_logits_is_minus_log_c_and_shifts_with_the_logits() -> None:
    zero = torch.zeros(3, 2, 10)
    torch.testing.assert_close(scores.average_energy(zero), torch.full((2,), -math.log(10)))
    torch.testing.assert_close(scores.average_energy(zero + 2.5), torch.full((2,), -math.log(10) - 2.5))


def test_entropy_of_the_mean_not_the_mean_of_entropies() -> None:
    # Two certain members that disagree: each entropy is 0, that of their mean is log 2.
    assert scores.ensemble_entropy(one_hot([0, 1], 3)).item() == pytest.approx(math.log(2), abs=1e-5)
    assert scores.ensemble_entropy(torch.zeros(2, 1, 8)).item() == pytest.approx(math.log(8), abs=1e-5)


def test_one_minus_bma_takes_the_top_of_the_mean() -> None:
    assert scores.one_minus_bma(one_hot([0, 1], 3)).item() == pytest.approx(0.5)
    assert scores.one_minus_bma(one_hot([2, 2], 3)).item() == pytest.approx(0.0, abs=1e-6)


def test_amp_of_uniform_logits_is_minus_log_c() -> None:
    torch.testing.assert_close(scores.amp(torch.zeros(4, 5, 12)), torch.full((4,), -math.log(12)))


def test_identical_anchors_divide_by_two() -> None:
    logits = torch.randn(3, 1, 6).expand(-1, 5, -1)
    torch.testing.assert_close(scores.anchor_temperature(logits), torch.full((3, 1), 2.0))
    halved = logits[:, 0] / 2
    torch.testing.assert_close(scores.amp(logits), halved.mean(-1) - halved.logsumexp(-1))


def test_amp_temperature_forms_differ_by_the_number_of_classes() -> None:
    logits = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]])
    spread = (torch.sigmoid(torch.tensor(2.0)) - torch.sigmoid(torch.tensor(-2.0))).item() / math.sqrt(2)
    assert scores.anchor_temperature(logits).item() == pytest.approx(1 + math.exp(spread / 2))
    assert scores.anchor_temperature(logits, reduce="sum").item() == pytest.approx(1 + math.exp(spread))
    with pytest.raises(ValueError, match="reduce"):
        scores.anchor_temperature(logits, reduce="max")


def test_amp_is_higher_for_flat_predictions() -> None:
    sure = torch.tensor([[[8.0, 0.0, 0.0]] * 3])
    flat = torch.tensor([[[0.5, 0.0, 0.0]] * 3])
    assert scores.amp(flat) > scores.amp(sure)


def test_ice_is_the_distance_to_the_nearest_centre() -> None:
    assert scores.ice(torch.tensor([[-3.0, -0.25, -9.0]])).item() == 0.25


def test_knn_and_mahalanobis_on_a_line() -> None:
    bank = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    distances = scores.squared_distances(torch.tensor([[0.0], [4.0]]), bank)
    torch.testing.assert_close(scores.knn(distances, 1), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(scores.knn(distances, 3), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(scores.mahalanobis(distances), torch.tensor([0.0, 1.0]))


def test_energy_is_minus_the_log_of_the_sum_and_shifts_with_the_logits() -> None:
    logits = torch.tensor([[math.log(6), math.log(3), math.log(1)], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(scores.energy(logits), torch.tensor([-math.log(10), -math.log(3)]))
    torch.testing.assert_close(scores.energy(logits + 7), scores.energy(logits) - 7)


def test_means_over_members() -> None:
    half = torch.tensor([[[math.log(3), 0.0]], [[0.0, 0.0]]])  # (3/4, 1/4) and (1/2, 1/2)
    assert scores.average_energy(half).item() == pytest.approx(-(math.log(4) + math.log(2)) / 2)
    torch.testing.assert_close(scores.mean_probabilities(half), torch.tensor([[0.625, 0.375]]))
    torch.testing.assert_close(scores.mean_log_probabilities(half).exp(), scores.mean_probabilities(half))


def test_pds_lies_between_one_over_c_and_the_members_over_c() -> None:
    generator = torch.Generator().manual_seed(3)
    for members, classes in ((2, 5), (7, 5)):
        found = scores.pds(6 * torch.randn(members, 400, classes, generator=generator))
        assert found.min() > 1 / classes
        assert found.max() <= min(members, classes) / classes + 1e-6


def test_amp_is_minus_log_c_minus_a_divergence_from_uniform() -> None:
    logits = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(4))
    calibrated = logits.mean(1) / scores.anchor_temperature(logits)
    divergence = (-math.log(8) - calibrated.log_softmax(-1)).mean(-1)
    assert (divergence > 0).all()
    torch.testing.assert_close(scores.amp(logits), -math.log(8) - divergence)
