from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oodguard.core.errors import QualityError
from oodguard.training.heads.guard import fit_heads
from oodguard.training.options import TrainOptions


@pytest.mark.parametrize("spread", [0.0, 1e-8])
def test_a_feature_that_is_the_same_for_all_photos_is_refused_in_a_sentence(spread: float) -> None:
    options = TrainOptions(data=Path("photos"), epochs=1)
    features = torch.ones(1, 40, 16) + spread * torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(QualityError, match=r"same feature, as far as float32 tells; give it trained weights"):
        fit_heads(features, torch.arange(40) % 2, options, classes=2)
