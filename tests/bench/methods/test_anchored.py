from __future__ import annotations

import pytest
import torch

from oodguard.bench.methods import anchored
from oodguard.bench.methods.anchored import AnchoredDetector, AnchoredMethod
from oodguard.bench.networks.network import feature_network
from oodguard.core.errors import InputError
from oodguard.training.heads import scores


def detector(anchors: int = 4) -> AnchoredDetector:
    torch.manual_seed(0)
    network = feature_network(centre=torch.zeros(12), scale=1.0, hidden=8, classes=3)
    return AnchoredDetector(network, torch.randn(anchors, 6))


def test_logits_are_those_of_explicit_pairs() -> None:
    built, x = detector(), torch.randn(5, 6)
    found = built.logits(x)
    for k, c in enumerate(built.anchors):
        torch.testing.assert_close(found[:, k], built.network(torch.cat([c.expand(5, -1), x - c], 1)))


def test_scores_are_those_of_all_anchors_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    built, x = detector(), torch.randn(9, 6)
    logits = built.logits(x).detach()
    whole = built.output(x)
    torch.testing.assert_close(whole.scores["amp"], scores.amp(logits))
    torch.testing.assert_close(whole.scores["amp_sum"], scores.amp(logits, reduce="sum"))
    torch.testing.assert_close(whole.scores["energy"], scores.energy(logits.mean(1)))
    torch.testing.assert_close(whole.log_probabilities, logits.mean(1).log_softmax(-1))
    monkeypatch.setattr(anchored, "LARGEST_BATCH", 8)
    torch.testing.assert_close(built.output(x).scores["amp"], whole.scores["amp"])


def test_one_anchor_has_no_spread() -> None:
    with pytest.raises(InputError, match="at least 2 anchors, K, for their spread; got 1"):
        AnchoredMethod("amp-1", "", anchors=1)
