"""The run record: what training hands on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from oodguard.core.calibration import Fusion, QuantileCurve
from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import FormatError
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.scores import CERTIFIED, SCORES, ScoreSpec

RECORD_FILE = "run.json"
WEIGHTS_FILE = "weights.safetensors"
CALIBRATION_FILE = "calibration.npy"
GOLDEN_FOLDER = "golden"


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
