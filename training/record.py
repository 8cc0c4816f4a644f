"""The run record: what training hands on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from oodguard.core.calibration import Calibration
from oodguard.core.classifier import ClassifierRecord
from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import FormatError
from oodguard.core.frozen import Frozen, first_fault
from oodguard.core.grey_levels import GreyLevels
from oodguard.core.lineage import VersionRef
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.scores import CERTIFIED, REGISTRY, WRAPPED, ScoreName, ScoreSpec
from oodguard.core.targets import Targets

RECORD_FILE = "run.json"
WEIGHTS_FILE = "weights.safetensors"
CALIBRATION_FILE = "calibration.safetensors"
DIVISION_FILE = "division.json"
FORMAT = 4
GOLDEN_FOLDER = "golden"

Record = TypeVar("Record", bound=Frozen)


class Splits(Frozen):
    """How many images went where, and what the near-duplicate groups looked like."""

    train: int
    calibration: int
    test: int
    groups: int = Field(description="near-duplicate groups among training and calibration images")
    largest_group: int
    unreadable: tuple[str, ...] = ()


class Duplicates(Frozen):
    """Exact copies that make figures false, by the bytes of the files."""

    action: Literal["report", "drop"] = Field(description="whether the photos were used all the same, or left out")
    leaked: int = Field(description="files to learn from or to calibrate with that are test photos, too")
    contested: int = Field(description="photos that have several labels")
    contested_files: int = Field(description="the files of these")
    first_leaked: tuple[tuple[str, str], ...] = Field((), description="such files, each with the test photo")
    first_contested: tuple[tuple[tuple[str, str], ...], ...] = Field(
        (), description="such photos: the names and the labels of their files"
    )


class PhotoFaults(Frozen):
    """What is wrong with the photos of a run, as far as bytes and features show it; `oodguard check` shows more."""

    smallest: int = Field(description="photos of the smallest class")
    largest: int = Field(description="photos of the largest class")
    copies: int = Field(description="files that are in their class already")
    copies_across: int = Field(description="files that are in another class, too")
    labels: int | None = Field(description="labels that look wrong; None: not looked at")
    first_labels: tuple[str, ...] = Field((), description="photos with such labels, the most suspect first")
    left_out: dict[str, int] = Field(
        default_factory=dict, description="photos that --exclude left out, by kind of suspect"
    )
    duplicates: Duplicates | None = Field(
        None, description="copies in test/ and under several labels; None: there are none"
    )
    grey_levels: GreyLevels | None = Field(
        None, description="of all photos together, where they are too few for photos; None: they are not"
    )
    passed: int = Field(0, description="files in the data folder that were not read, but for what systems leave there")
    first_passed: tuple[str, ...] = Field((), description="such files with the reason, photos first")
    layout: str = Field("", description="which folders were taken for splits")


class BackboneRecord(Frozen):
    """The network under the heads."""

    kind: str = Field(description="the library that builds it: a key of `backbone.sources.SOURCES`")
    name: str
    resized: bool = Field(description="whether its input is of another size than the network's own")
    source: str
    weights_sha256: str
    cut: str | None = Field(description="last frozen module; what follows was tuned. None: all frozen, or all tuned")
    recorded: bool = Field(False, description="whether it was cut as recorded operations, and not as traced modules")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="what builds it beside its name")
    width: int
    tuned_sha256: str | None = Field(None, description="the weights after all of it was tuned. None: they are as given")


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
    own_classes: int = Field(0, ge=0, description="of the wrapped classifier; 0: there is none")
    covered: tuple[int, ...] = Field((), description="which of those the heads know, in their order; (): all")
    scores: tuple[ScoreName, ...] = Field(min_length=1, description="in graph order")

    @model_validator(mode="after")
    def _scores_fit(self) -> HeadShapes:
        if len(set(self.scores)) != len(self.scores):
            raise ValueError("score names repeat")
        if (CERTIFIED.name in self.scores) != self.certified:
            raise ValueError(f"{CERTIFIED.name} belongs to a certified head")
        if any((spec.name in self.scores) != bool(self.own_classes) for spec in WRAPPED):
            raise ValueError("scores of the classifier's own logits belong to a wrapped classifier")
        if self.covered and len(self.covered) != self.classes:
            raise ValueError("the classes that the heads know are not those of the wrapped classifier")
        return self

    @property
    def specs(self) -> tuple[ScoreSpec, ...]:
        """The scores as people read them, in graph order."""
        return tuple(REGISTRY[name] for name in self.scores)


class DivisionRecord(Frozen):
    """Which part of the division each photo belongs to: `division.json`.

    Each part maps a class to its photos: SHA-256 of the file -> number of its near-duplicate group. Photos of the
    user's own test folder have no group.
    """

    training: dict[str, dict[str, int]]
    calibration: dict[str, dict[str, int]]
    test: dict[str, dict[str, int | None]]


class RunRecord(Frozen):
    """Everything about a run that is not a weight: `run.json`."""

    format: Literal[4] = 4
    name: str | None = Field(None, description="of the folder that it was first written to; a later version keeps it")
    version: int = Field(1, ge=1, description="counts the runs that follow each other")
    parent: VersionRef | None = Field(None, description="the run that it follows")
    oodguard: str
    created: str
    seed: int
    options: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    data_fingerprint: str
    classes: tuple[str, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    backbone: BackboneRecord
    classifier: ClassifierRecord | None = Field(None, description="the wrapped classifier; null: trained here")
    heads: HeadShapes
    splits: Splits
    faults: PhotoFaults | None = Field(None, description="what is wrong with the photos")
    calibration: Calibration
    targets: Targets = Field(description="what answers are to keep where nobody asks for anything else")
    metrics: dict[str, float]
    diagnosis: CollusionReport | None = Field(None, description="on the calibration images, when it was trained")
    weights_sha256: str
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each other file of the run, by name.")

    @model_validator(mode="after")
    def _scores_are_calibrated(self) -> RunRecord:
        if self.calibration.names != self.heads.scores:
            raise ValueError("the calibration is not of the scores that the heads give, in their order")
        return self


def load_record(run: Path) -> RunRecord:
    """Read a run folder's record. Raises `FormatError`, in one sentence, when it is not one of ours."""
    path = run / RECORD_FILE
    if not path.is_file():
        raise FormatError(f"{run} is not a finished run: it has no {RECORD_FILE}")
    data = path.read_bytes()
    try:
        found = json.loads(data)["format"]
    except (ValueError, TypeError, KeyError):
        raise FormatError(f"{path} is damaged; train the run again") from None
    if found != FORMAT:
        raise FormatError(f"{run} is a run of format {found}, and this oodguard reads format {FORMAT}; train it again")
    return parse_record(RunRecord, data, path)


def parse_record(kind: type[Record], data: bytes, path: Path) -> Record:
    """A record of a run from its file's bytes. Raises `FormatError`, in one sentence, for what does not fit."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        fault = first_fault(error, whole="the file")
        raise FormatError(f"{path} is damaged or was written by another version of oodguard: {fault}") from None
