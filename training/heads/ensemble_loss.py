"""What the members of an ensemble are trained by, by name: the one place where `oodguard train` and `bench` get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from oodguard.core.collusion import Averaging
from oodguard.core.errors import InputError
from oodguard.training.heads.collusion import joint_loss
from oodguard.training.heads.divdis import divdis_loss
from oodguard.training.heads.ldr import ALPHA_FLOOR, a2d_pairs, ldr_loss

Kind = Literal["independent", "ldr", "two-stage", "a2d", "divdis", "joint"]
Logits = Callable[[Tensor, "list[int] | None"], Tensor]


@dataclass(frozen=True)
class EnsembleLoss:
    """The loss of M members, of which `active` = |I| random ones are trained per step (LDR paper, Sec. A.5.1).

    `weight` is lambda, the weight of disagreement; `beta` the share of joint training; `floor` that of LDR's alpha.
    `diverse` gives every member its own label smoothing, from none to twice `label_smoothing`. Raises `InputError` for
    what cannot train.
    """

    kind: Kind
    members: int
    active: int = 2
    weight: float = 0.3
    beta: float = 0.0
    floor: float = ALPHA_FLOOR
    label_smoothing: float = 0.1
    diverse: bool = False
    averaging: Averaging = "probabilities"

    def __post_init__(self) -> None:
        """Refuse bad values, with a sentence that says what to do."""
        if self.members < 2:
            raise InputError(f"an ensemble needs at least 2 members; got {self.members}")
        if not 2 <= self.active <= self.members:
            raise InputError(f"|I|, the active members, must lie between 2 and M = {self.members}; got {self.active}")
        if self.weight < 0:
            raise InputError(f"lambda, the weight of disagreement, cannot be negative; got {self.weight:g}")
        if self.beta > 1:
            raise InputError(f"beta must be at most 1: beyond it the joint loss has no lower bound; got {self.beta:g}")
        if self.floor < 0:
            raise InputError(f"the floor of alpha cannot be negative; got {self.floor:g}")

    @property
    def needs_outliers(self) -> bool:
        """Whether it looks at auxiliary outliers."""
        return self.kind in ("a2d", "divdis")

    def __call__(
        self,
        logits: Logits,
        x: Tensor,
        y: Tensor,
        *,
        outliers: Tensor | None = None,
        prior: Tensor | None = None,
        unsure: Tensor | None = None,
    ) -> Tensor:
        """The loss of inputs `[B, ...]` and classes `[B]`: a scalar.

        `logits(x, active)` are the members' `[|I|, B, C]`. outliers `[O, ...]` and prior `[C]` (class shares): for A2D
        and DivDis. unsure `[B]`: for the two-stage ablation, the images to disagree on.
        """
        if self.kind == "joint":
            # The ensemble's own loss needs all of its members.
            return joint_loss(logits(x, None), y, beta=self.beta, averaging=self.averaging)
        active = torch.randperm(self.members)[: self.active].tolist()
        found = logits(x, active)
        if self.kind == "ldr":
            return ldr_loss(found, y, disagreement=self.weight, label_smoothing=self.label_smoothing, floor=self.floor)
        if self.kind == "two-stage":
            assert unsure is not None
            return self._two_stage(found, y, unsure)
        loss = self._cross_entropy(found, y, active)
        if self.kind == "a2d":
            assert outliers is not None
            return loss + self.weight * a2d_pairs(logits(outliers, active).softmax(-1)).mean()
        if self.kind == "divdis":
            assert outliers is not None
            assert prior is not None
            return loss + self.weight * divdis_loss(logits(outliers, active), prior)
        return loss

    def _cross_entropy(self, logits: Tensor, y: Tensor, active: list[int]) -> Tensor:
        smoothing = [
            2 * self.label_smoothing * m / (self.members - 1) if self.diverse else self.label_smoothing for m in active
        ]
        losses = [functional.cross_entropy(row, y, label_smoothing=s) for row, s in zip(logits, smoothing, strict=True)]
        return torch.stack(losses).mean()

    def _two_stage(self, logits: Tensor, y: Tensor, unsure: Tensor) -> Tensor:
        """Cross-entropy on the sure images, disagreement on the others (LDR paper, Sec. A.9)."""
        loss = logits.sum() * 0.0
        sure = ~unsure
        if sure.any():
            kept = logits[:, sure]
            loss = loss + functional.cross_entropy(
                kept.flatten(0, 1), y[sure].repeat(len(logits)), label_smoothing=self.label_smoothing
            )
        if unsure.any():
            loss = loss + self.weight * a2d_pairs(logits[:, unsure].softmax(-1)).mean()
        return loss


def class_shares(targets: Tensor, classes: int) -> Tensor:
    """The prior `[C]`: each class's share of the training images."""
    return torch.bincount(targets, minlength=classes) / len(targets)
