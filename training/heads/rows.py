"""What heads read of an image: one row, its feature; behind it what a wrapped classifier said, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The parts of rows `[..., D + 2 C]`: feature `[..., D]`, and the classifier's own logits and probabilities.

    own_classes: C; 0 where there is no wrapped classifier, and rows are features.
    """

    width: int
    own_classes: int = 0

    def feature(self, rows: Tensor) -> Tensor:
        """`[..., D]`."""
        return rows[..., : self.width] if self.own_classes else rows

    def logits(self, rows: Tensor) -> Tensor:
        """`[..., C]`; no columns where there is no wrapped classifier."""
        return rows[..., self.width : self.width + self.own_classes]

    def probabilities(self, rows: Tensor) -> Tensor:
        """`[..., C]`; no columns where there is no wrapped classifier."""
        return rows[..., self.width + self.own_classes :]

    def of_classes(self, rows: Tensor, own: Sequence[int]) -> tuple[Rows, Tensor]:
        """Rows of a classifier that knows only the classes `own`: its other logits are dropped.

        Probabilities are the remaining ones as they are; they are not made to sum to one.
        """
        if not self.own_classes:
            return self, rows
        chosen = torch.as_tensor(list(own))
        parts = [self.feature(rows), self.logits(rows)[..., chosen], self.probabilities(rows)[..., chosen]]
        return Rows(self.width, len(chosen)), torch.cat(parts, dim=-1)
