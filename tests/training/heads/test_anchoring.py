from __future__ import annotations

import torch

from oodguard.training.heads.anchoring import AnchoredHead, anchored_loss


def head(anchors: int = 3) -> AnchoredHead:
    torch.manual_seed(0)
    built = AnchoredHead(width=6, hidden=8, classes=4, anchors=anchors)
    built.anchors.copy_(torch.randn(anchors, 6))
    return built


def test_folded_anchors_equal_explicit_pairs() -> None:
    built, x = head(), torch.randn(5, 6)
    folded = built(x)
    assert folded.shape == (5, 3, 4)
    for k in range(3):
        anchor = built.anchors[k].expand(5, -1)
        torch.testing.assert_close(folded[:, k], built.pairwise(anchor, x - anchor))


def test_anchors_change_more_than_an_offset() -> None:
    # A linear anchored head would add the same vector to every image's logits.
    built, x = head(), torch.randn(5, 6)
    difference = (built(x)[:, 0] - built(x)[:, 1]).detach()
    assert difference.std(0).max() > 1e-3


def test_every_fifth_step_shows_the_other_view_of_the_anchor() -> None:
    built, x, targets = head(), torch.randn(8, 6), torch.arange(8) % 4
    other = x + 5.0
    losses = []
    for step in range(6):
        torch.manual_seed(3)
        losses.append(anchored_loss(built, x, other, targets, step=step).item())
    assert losses[0] == losses[5]
    assert len({losses[1], losses[2], losses[3], losses[4]}) == 1
    assert losses[0] != losses[1]
