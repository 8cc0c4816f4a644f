from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier
from oodguard.bench.baselines.relation import fit


def test_against_the_published_recipe_in_numpy() -> None:
    torch.manual_seed(0)
    head = nn.Linear(5, 4)
    training, x = torch.randn(40, 5), torch.randn(8, 5)

    def embedded(h: torch.Tensor) -> Embedded:
        with torch.no_grad():
            return Embedded(embeddings=h, logits=head(h), features=h)

    targets = torch.arange(40) % 4
    learned = LearnedClassifier(
        head=head,
        training=embedded(training),
        targets=targets,
        calibration=embedded(training),
        calibration_targets=targets,
    )
    p, p_bank = (softmax(embedded(h).logits.numpy(), axis=1) for h in (x, training))
    expected = []
    for row, own in zip(x.numpy(), p, strict=True):
        ties = [
            max(row @ other / np.linalg.norm(row) / np.linalg.norm(other), 0.0) * (own @ beside)
            for other, beside in zip(training.numpy(), p_bank, strict=True)
        ]
        assert any(0.0 < tie <= 0.03 for tie in ties), "the cut is not seen"
        expected.append(-sum(tie for tie in ties if tie > 0.03))
    np.testing.assert_allclose(fit(learned)(embedded(x)).numpy(), expected, rtol=1e-5)
