from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from oodguard.core.errors import InputError
from oodguard.training.heads.collusion import ensemble_loss
from oodguard.training.heads.ensemble_loss import EnsembleLoss, class_shares
from oodguard.training.heads.ldr import a2d_pairs, ldr_loss

MEMBERS = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
ROWS = torch.arange(12)


class Asked:
    """Members that answer from a table and remember who was asked."""

    def __init__(self) -> None:
        self.active: list[list[int] | None] = []

    def __call__(self, rows: Tensor, active: list[int] | None) -> Tensor:
        self.active.append(active)
        return MEMBERS[active if active is not None else slice(None)][:, rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 1}, "at least 2 members; got 1"),
        ({"active": 5}, "between 2 and M = 4; got 5"),
        ({"active": 1}, "between 2 and M = 4; got 1"),
        ({"weight": -0.1}, "lambda, the weight of disagreement, cannot be negative; got -0.1"),
        ({"beta": 1.5}, "beta must be at most 1: beyond it the joint loss has no lower bound; got 1.5"),
        ({"floor": -1.0}, "the floor of alpha cannot be negative; got -1"),
    ],
)
def test_bad_hyperparameters_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        EnsembleLoss(**{"kind": "ldr", "members": 4, **change})  # type: ignore[arg-type]


def test_joint_training_asks_all_members_and_the_others_a_random_pair() -> None:
    asked = Asked()
    found = EnsembleLoss("joint", 4, beta=1.0, averaging="scores")(asked, ROWS, Y)
    torch.testing.assert_close(found, ensemble_loss(MEMBERS, Y, "scores"))
    assert asked.active == [None]
    loss = EnsembleLoss("ldr", 4, weight=0.4)
    torch.manual_seed(0)
    pairs = set()
    for _ in range(40):
        found = loss(asked, ROWS, Y)
        active = asked.active[-1]
        assert active is not None
        assert len(set(active)) == 2
        pairs.add(tuple(sorted(active)))
        torch.testing.assert_close(found, ldr_loss(MEMBERS[active], Y, disagreement=0.4, label_smoothing=0.1))
    assert len(pairs) == 6


def test_a2d_disagrees_on_outliers_alone() -> None:
    asked = Asked()
    found = EnsembleLoss("a2d", 4, weight=0.4)(asked, ROWS[:6], Y[:6], outliers=ROWS[6:])
    assert asked.active[0] == asked.active[1]
    logits = MEMBERS[asked.active[0]]
    main = functional.cross_entropy(logits[:, :6].flatten(0, 1), Y[:6].repeat(2), label_smoothing=0.1)
    torch.testing.assert_close(found, main + 0.4 * a2d_pairs(logits[:, 6:].softmax(-1)).mean())


def test_two_stages_divide_the_images() -> None:
    asked, unsure = Asked(), ROWS % 3 == 0
    loss = EnsembleLoss("two-stage", 4, weight=0.4)
    found = loss(asked, ROWS, Y, unsure=unsure)
    logits = MEMBERS[asked.active[0]]
    main = functional.cross_entropy(logits[:, ~unsure].flatten(0, 1), Y[~unsure].repeat(2), label_smoothing=0.1)
    torch.testing.assert_close(found, main + 0.4 * a2d_pairs(logits[:, unsure].softmax(-1)).mean())
    for all_or_none in (torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)):
        assert torch.isfinite(loss(asked, ROWS, Y, unsure=all_or_none))


def test_diverse_members_have_label_smoothing_of_their_own() -> None:
    asked = Asked()
    found = EnsembleLoss("independent", 4, active=4, label_smoothing=0.1, diverse=True)(asked, ROWS, Y)
    expected = [functional.cross_entropy(MEMBERS[m], Y, label_smoothing=0.2 * m / 3) for m in range(4)]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_class_shares() -> None:
    assert class_shares(torch.tensor([0, 2, 2, 2]), 4).tolist() == [0.25, 0.0, 0.75, 0.0]
