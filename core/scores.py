"""The registry of scores: name, family, title and meaning of each, in graph order.

Every score is oriented one way: **higher = more out-of-distribution**. The formulas are in `training/heads/scores.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field

from oodguard.core.frozen import Frozen


class ScoreName(StrEnum):
    """The scores of the guard, in graph order. Formulas are in `training/heads/scores.py`, once."""

    PDS = "pds"
    AMP = "amp"
    ENERGY = "energy"
    ENSEMBLE_ENTROPY = "ensemble_entropy"
    ONE_MINUS_BMA = "one_minus_bma"
    ICE = "ice"
    KNN = "knn"
    MAHALANOBIS = "mahalanobis"
    LINEAR_ENERGY = "linear_energy"
    CLASSIFIER_ENERGY = "classifier_energy"
    CLASSIFIER_ENTROPY = "classifier_entropy"
    CLASSIFIER_ONE_MINUS_MSP = "classifier_one_minus_msp"


class Family(StrEnum):
    """What a score measures; each family has a share of the fused score's false alarms (`core/fusion.py`).

    `CONFIDENCE` scores say how sure the heads are; `DENSITY` scores say how far the features are from the
    training photos.
    """

    CONFIDENCE = "confidence"
    DENSITY = "density"


class ScoreSpec(Frozen):
    """One score as people read it."""

    name: ScoreName
    family: Family
    title: str
    meaning: str
    fused: bool = Field(False, description="whether it may join the fused score")


SCORES: tuple[ScoreSpec, ...] = (
    ScoreSpec(
        name=ScoreName.PDS,
        family=Family.CONFIDENCE,
        title="Predictive Diversity Score",
        meaning="how many classes the ensemble's members vote for",
    ),
    ScoreSpec(
        name=ScoreName.AMP,
        family=Family.CONFIDENCE,
        title="Anchor Marginalized Prediction",
        meaning="how flat the anchored head's prediction is, tempered by its variation over anchors",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.ENERGY,
        family=Family.CONFIDENCE,
        title="average energy",
        meaning="how little total evidence the members see for any class",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.ENSEMBLE_ENTROPY,
        family=Family.CONFIDENCE,
        title="entropy of the mean prediction",
        meaning="how spread out the averaged prediction is",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.ONE_MINUS_BMA,
        family=Family.CONFIDENCE,
        title="1 - Bayesian model average",
        meaning="how far the averaged top probability is from certainty",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.ICE,
        family=Family.CONFIDENCE,
        title="ICE distance",
        meaning="learned Mahalanobis distance to the nearest class centre",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.KNN,
        family=Family.DENSITY,
        title="k-nearest-neighbour distance",
        meaning="distance to the k-th nearest training photo in feature space",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.MAHALANOBIS,
        family=Family.DENSITY,
        title="Mahalanobis distance",
        meaning="distance to the nearest class mean under the shared feature covariance",
        fused=True,
    ),
)


# Only of runs trained with a certificate; it never enters the fused score.
CERTIFIED = ScoreSpec(
    name=ScoreName.LINEAR_ENERGY,
    family=Family.CONFIDENCE,
    title="energy of the certified head",
    meaning="how little evidence a linear head sees; within the certified radius its verdict cannot change",
)

# Only of runs around a classifier that was there before, whose own logits these are.
WRAPPED: tuple[ScoreSpec, ...] = (
    ScoreSpec(
        name=ScoreName.CLASSIFIER_ENERGY,
        family=Family.CONFIDENCE,
        title="energy of the wrapped classifier",
        meaning="how little total evidence the classifier's own logits hold for any class",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.CLASSIFIER_ENTROPY,
        family=Family.CONFIDENCE,
        title="entropy of the wrapped classifier",
        meaning="how spread out the softmax of the classifier's own logits is",
        fused=True,
    ),
    ScoreSpec(
        name=ScoreName.CLASSIFIER_ONE_MINUS_MSP,
        family=Family.CONFIDENCE,
        title="1 - maximum softmax probability of the wrapped classifier",
        meaning="how far the largest softmax probability of the classifier's own logits is from certainty",
        fused=True,
    ),
)

REGISTRY: Mapping[ScoreName, ScoreSpec] = {spec.name: spec for spec in (*SCORES, CERTIFIED, *WRAPPED)}
