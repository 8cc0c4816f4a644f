from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodguard.training.backbone.tail import TailObjective, tail_features, tune_tail
from oodguard.training.loop import Schedule
from oodguard.training.options import TrainOptions

WIDTH, CLASSES = 16, 3


def options(**changes: object) -> TrainOptions:
    return TrainOptions.model_validate(
        {"data": Path("photos"), "fine_tune_epochs": 30, "fine_tune_lr": 0.01, **changes}
    )


def tail() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


def activations() -> tuple[np.ndarray, Tensor]:
    """Two views of 90 images whose class is one of three channels; the fourth channel varies beside it."""
    rng = np.random.default_rng(0)
    targets = np.arange(90) % CLASSES
    values = rng.normal(scale=0.3, size=(2, 90, 4, 6, 6))
    values[:, np.arange(90), targets] += 1.0
    values[:, :, 3] += rng.normal(scale=2.0, size=(90, 1, 1))
    return values.astype(np.float16), torch.from_numpy(targets)


def recovered(features: Tensor, frozen: Tensor) -> float:
    """The share of the frozen feature's variance that a linear map of the tuned feature explains."""
    x = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    rest = frozen - x @ torch.linalg.lstsq(x, frozen).solution
    return 1.0 - float(rest.square().sum() / (frozen - frozen.mean(0)).square().sum())


def tuned(**changes: object) -> tuple[Tensor, Tensor]:
    """Features `[N, D]` before and after tuning."""
    values, targets = activations()
    network = tail()
    frozen = torch.stack([tail_features(network, view) for view in values])
    tune_tail(network, values, frozen, targets, options(**changes), classes=CLASSES, width=WIDTH)
    return frozen[0], tail_features(network, values[0])


def test_tuning_keeps_the_frozen_feature_and_without_the_term_forgets_it() -> None:
    kept = recovered(*reversed(tuned(retain=4.0)))
    forgot = recovered(*reversed(tuned(retain=0.0)))
    assert kept > 0.98
    assert forgot < kept - 0.02


def test_tuning_learns_the_labels() -> None:
    _, targets = activations()
    _, features = tuned(retain=4.0)
    means = torch.stack([features[targets == c].mean(0) for c in range(CLASSES)])
    assert (torch.cdist(features, means).argmin(1) == targets).float().mean() > 0.95


@pytest.mark.parametrize("retain", [0.0, 2.5])
def test_the_loss_by_hand(retain: float) -> None:
    values, targets = activations()
    network, head = tail(), nn.Linear(WIDTH, CLASSES)
    frozen = torch.randn(1, 90, WIDTH)
    objective = TailObjective(network, head, values[:1], frozen, targets, options(retain=retain, label_smoothing=0.0))
    rows = torch.arange(10)
    z = tail_features(network, values[0][:10])
    expected = nn.functional.cross_entropy(head(z), targets[rows])
    # The map starts as the identity.
    expected = expected + retain * (1 - nn.functional.cosine_similarity(z, frozen[0, rows])).mean()
    torch.testing.assert_close(objective(rows, 0), expected, rtol=1e-4, atol=1e-4)
    schedule = Schedule(epochs=1, batch=8, lr=0.1)
    assert len(objective.parameter_groups(schedule)) == len(objective.peaks(schedule)) == (4 if retain else 3)


class Tokens(nn.Module):
    """A tail of tokens, with weights of five axes, as windows and patches of volumes have them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, 1, 4))
        self.layer = nn.Linear(4, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.relu(self.layer(tokens + self.bias[0, 0, 0])).mean(1)


def test_tails_of_tokens_and_weights_of_any_rank_are_tuned() -> None:
    values, targets = activations()
    tokens = values.reshape(2, 90, 4, 36).swapaxes(2, 3)
    network = Tokens()
    frozen = torch.stack([tail_features(network, view) for view in tokens])
    tune_tail(network, tokens, frozen, targets, options(), classes=CLASSES, width=WIDTH)
    assert network.bias.abs().max() > 0
    features = tail_features(network, tokens[0])
    means = torch.stack([features[targets == c].mean(0) for c in range(CLASSES)])
    assert (torch.cdist(features, means).argmin(1) == targets).float().mean() > 0.9
