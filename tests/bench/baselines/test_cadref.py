from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn

from oodguard.bench.baselines.cadref import fit
from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier


def embedded(head: nn.Linear, h: torch.Tensor) -> Embedded:
    with torch.no_grad():
        return Embedded(embeddings=h, logits=head(h), features=h)


def test_against_the_published_recipe_in_numpy() -> None:
    torch.manual_seed(0)
    head = nn.Linear(7, 3)
    training, x = torch.randn(50, 7).relu() + 0.2, torch.randn(9, 7).relu() + 0.1
    targets = torch.arange(50) % 3
    fitted = fit(
        LearnedClassifier(
            head=head,
            training=embedded(head, training),
            targets=targets,
            calibration=embedded(head, training),
            calibration_targets=targets,
        )
    )
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    logits = training.numpy() @ weight.T + bias
    usual = logsumexp(logits, axis=1).mean()
    expected = []
    for row in x.numpy():
        f = weight @ row + bias
        y = int(f.argmax())
        away = row - training.numpy()[logits.argmax(1) == y].mean(0)
        helps = sum(abs(d) for d, w in zip(away, weight[y], strict=True) if d * w > 0) / np.abs(row).sum()
        harms = sum(abs(d) for d, w in zip(away, weight[y], strict=True) if d * w < 0) / np.abs(row).sum()
        expected.append(helps / logsumexp(f) + harms / usual)
    np.testing.assert_allclose(fitted(embedded(head, x)).numpy(), expected, rtol=1e-5)
