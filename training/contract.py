"""The run record: what training hands on, and the names and orientation of every score.

Every score is oriented one way: **higher = more out-of-distribution**.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oodguard.training.calibration import Fusion, QuantileCurve
from oodguard.training.errors import FormatError
from oodguard.training.preprocess import Preprocessing

Averaging = Literal["scores", "probabilities"]

RECORD_FILE = "run.json"
WEIGHTS_FILE = "weights.safetensors"
CALIBRATION_FILE = "calibration.npy"
GOLDEN_FOLDER = "golden"


class Frozen(BaseModel):
    """Base of every record: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreName(StrEnum):
    """The scores of the guard, in graph order. Formulas are in `training/scores.py`, once."""

    PDS = "pds"
    AMP = "amp"
    ENERGY = "energy"
    ENSEMBLE_ENTROPY = "ensemble_entropy"
    ONE_MINUS_BMA = "one_minus_bma"
    ICE = "ice"
    KNN = "knn"
    MAHALANOBIS = "mahalanobis"
    LINEAR_ENERGY = "linear_energy"


class Family(StrEnum):
    """What a score listens to; the fused score treats the two families differently.

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
    ),
    ScoreSpec(
        name=ScoreName.ENERGY,
        family=Family.CONFIDENCE,
        title="average energy",
        meaning="how little total evidence the members see for any class",
    ),
    ScoreSpec(
        name=ScoreName.ENSEMBLE_ENTROPY,
        family=Family.CONFIDENCE,
        title="entropy of the mean prediction",
        meaning="how spread out the averaged prediction is",
    ),
    ScoreSpec(
        name=ScoreName.ONE_MINUS_BMA,
        family=Family.CONFIDENCE,
        title="1 - Bayesian model average",
        meaning="how far the averaged top probability is from certainty",
    ),
    ScoreSpec(
        name=ScoreName.ICE,
        family=Family.CONFIDENCE,
        title="ICE distance",
        meaning="learned Mahalanobis distance to the nearest class centre",
    ),
    ScoreSpec(
        name=ScoreName.KNN,
        family=Family.DENSITY,
        title="k-nearest-neighbour distance",
        meaning="distance to the k-th nearest training photo in feature space",
    ),
    ScoreSpec(
        name=ScoreName.MAHALANOBIS,
        family=Family.DENSITY,
        title="Mahalanobis distance",
        meaning="distance to the nearest class mean under the shared feature covariance",
    ),
)


# Only of runs trained with a certificate; it never enters the fused score.
CERTIFIED = ScoreSpec(
    name=ScoreName.LINEAR_ENERGY,
    family=Family.CONFIDENCE,
    title="energy of the certified head",
    meaning="how little evidence a linear head sees; within the certified radius its verdict cannot change",
)


class Splits(Frozen):
    """How many images went where, and what the near-duplicate groups looked like."""

    train: int
    calibration: int
    test: int
    groups: int = Field(description="near-duplicate groups among training and calibration images")
    largest_group: int
    unreadable: tuple[str, ...] = ()


class BackboneRecord(Frozen):
    """The network under the heads."""

    name: str
    source: str
    weights_sha256: str
    cut: str | None = Field(description="last frozen module; what follows was tuned. None: all frozen")
    width: int


class HeadShapes(Frozen):
    """The sizes needed to build the heads again before their weights are loaded."""

    classes: int = Field(ge=2)
    width: int = Field(ge=1)
    hidden: int = Field(ge=1)
    members: int = Field(ge=2)
    anchors: int = Field(ge=2)
    ice_width: int = Field(ge=1)
    density_width: int = Field(ge=1)
    bank: int = Field(ge=1)
    neighbours: int = Field(ge=1)
    certified: bool = False

    @property
    def scores(self) -> tuple[ScoreSpec, ...]:
        """The scores that these heads give, in graph order."""
        return (*SCORES, CERTIFIED) if self.certified else SCORES


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


class RunRecord(Frozen):
    """Everything about a run that is not a weight: `run.json`."""

    format: Literal[1] = 1
    oodguard: str
    created: str
    seed: int
    options: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    data_fingerprint: str
    classes: tuple[str, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    backbone: BackboneRecord
    heads: HeadShapes
    splits: Splits
    curves: dict[str, QuantileCurve] = Field(description="by score name")
    fusion: Fusion
    metrics: dict[str, float]
    diagnosis: CollusionReport | None = Field(None, description="on the calibration images, when it was trained")
    weights_sha256: str


def load_record(run: Path) -> RunRecord:
    """Read a run folder's record. Raises `FormatError`, in one sentence, when it is not one of ours."""
    path = run / RECORD_FILE
    if not path.is_file():
        raise FormatError(f"{run} is not a finished run: it has no {RECORD_FILE}")
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise FormatError(
            f"{path} was written by another version of oodguard or damaged: {where}: {first['msg']}"
        ) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
