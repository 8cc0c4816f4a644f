"""The record of a diagnosis: whether the members of an ensemble collude."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from oodguard.core.frozen import Frozen

Averaging = Literal["scores", "probabilities"]


class CollusionReport(Frozen):
    """What an ensemble of M members shows on labelled images it was not trained on.

    Losses are cross-entropies in nats of probability (or score) averaging. `relative_diversity` is DIV / ERR.
    `bias_share`: the share of DIV that goes when each member's constant bias is taken off its logits.
    `codependence`: by dropped share of the members, the rise of the ensemble's loss relative to the loss with all of
    them, mean over random draws. `generalisation_gap` = ERR here - ERR on training images.
    """

    members: int = Field(ge=2)
    averaging: Averaging
    ensemble_loss: float
    member_loss: float
    diversity: float
    relative_diversity: float
    bias_share: float
    codependence: dict[str, float]
    ensemble_accuracy: float
    member_accuracy: tuple[float, ...]
    generalisation_gap: float | None
    colluding: bool
    verdict: str
