"""Why an image got its fused score: the scores that decided, and the nearest training photos."""

from __future__ import annotations

from oodguard.core.frozen import Frozen
from oodguard.core.scores import Family, ScoreName


class FamilyPart(Frozen):
    """One family's part of the fused score: `term` is `log share + surprise`, and the larger term decides."""

    family: Family
    share: float
    surprise: float
    term: float


class ScorePart(Frozen):
    """One score that joins the fused score: its surprise on ID images in nats, and its percentile, 0 to 100."""

    name: ScoreName
    family: Family
    surprise: float
    percentile: float


class Neighbour(Frozen):
    """A training photo near the image: its label, and how far it is in feature space (0: the same feature).

    `sha256` is the hash of the photo's file. Features have length 1, so no distance exceeds 2.
    """

    label: str
    class_index: int
    distance: float
    sha256: str


class Explanation(Frozen):
    """Why an image got its fused score, whether it was flagged or not.

    `decided_by` is the family with the larger term. `families` lists the larger term first; `scores` lists the deciding
    family's scores first, and in each family the most surprising one first. `neighbours` lists the nearest training
    photos, nearest first; it is empty for a bundle without a bank.
    """

    decided_by: Family
    families: tuple[FamilyPart, ...]
    scores: tuple[ScorePart, ...]
    neighbours: tuple[Neighbour, ...] = ()
