"""The record of an evaluation: every number that its report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from oodguard.core.fusion import LeftOutCheck
from oodguard.core.scores import Family, ScoreName
from oodguard.evaluation.ablation import Ablated
from oodguard.evaluation.answered import Answered
from oodguard.evaluation.comparison import BaselineComparison
from oodguard.evaluation.confusion import Confusion
from oodguard.evaluation.diversity import Diversity
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.extremes import Extremes
from oodguard.evaluation.operating import OperatingPoint
from oodguard.evaluation.shifted import ShiftTable
from oodguard.evaluation.threshold import AtThreshold, Deciding
from oodguard.evaluation.trainings import Repeats
from oodguard.training.metrics import ConfidenceBin, Detection, Interval, Share
from oodguard.training.record import PhotoFaults

JSON_FILE = "evaluation.json"
MARKDOWN_FILE = "evaluation.md"
HTML_FILE = "report.html"


class DetectionTable(BaseModel):
    """One OOD set: what passes the thresholds, detection by every score, and by every ablation of the fused one.

    `at_threshold`: every score of the guard at its own threshold; `baselines` likewise, empty where they were skipped.
    `decided`: which family flags images of the set. `passed_as`: what the images that get through are predicted as, the
    most frequent few.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    at_threshold: dict[str, AtThreshold]
    baselines: dict[str, AtThreshold]
    decided: Deciding
    scores: dict[str, Detection]
    ablation: dict[str, Ablated]
    passed_as: dict[str, int] = {}


class FusedParts(BaseModel):
    """What the fused score is made of, and the check on left-out classes that chose it (None: the defaults).

    `shares`: of the false alarms, by family. `weights`: the same by score; scores that did not join are not in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: dict[Family, float]
    weights: dict[ScoreName, float]
    check: LeftOutCheck | None


class Evaluation(BaseModel):
    """Everything `evaluate` found: `evaluation.json`. The report shows these numbers and no others.

    `created` is the one time in it. `confidence` is the mean top probability. `wrong_flagged`: the share of wrongly
    labelled test images that the fused score flags. `promised`: where the acceptance of so many test images lies with
    95 % probability, with so many calibration images. `decided`: which family flags ID test images. `fusion`: what the
    fused score is made of. `calibration_groups`: the calibration images, near-duplicates counted once. `answered`: what
    answers are worth; None where the run knows no classes. `leak`: test acceptance of a kNN threshold, by calibration
    split and number of neighbours. `shifts`: test photos after mild shifts; None where they were not asked for.
    `wrapped`: the file of the classifier that the guard was put around; None where it was trained with the guard.
    `run` and `data` name the run with its version, and the folder of its photos. `class_photos`: how many photos of
    each class trained. `faults`: what is wrong with the photos; None where nobody looked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: str
    run: str = ""
    data: str = ""
    command: str
    versions: dict[str, str]
    seed: int
    accept: float
    accuracy: Share
    member_accuracy: tuple[float, ...]
    confidence: float
    calibration_error: float
    reliability: tuple[ConfidenceBin, ...]
    recalls: dict[str, Share]
    confusions: tuple[Confusion, ...]
    wrong_flagged: Share | None
    diversity: Diversity
    calibration_images: int
    calibration_groups: int
    answered: Answered | None
    acceptance: dict[str, Share]
    thresholds: dict[str, float]
    promised: Interval
    decided: Deciding
    fusion: FusedParts
    comparison: BaselineComparison
    operating_points: tuple[OperatingPoint, ...]
    ood: dict[str, DetectionTable]
    leave_out: dict[str, DetectionTable]
    repeats: Repeats | None
    shifts: ShiftTable | None = None
    wrapped: str | None = None
    class_photos: dict[str, int] = {}
    faults: PhotoFaults | None = None
    leak: dict[str, dict[int, float]]
    extremes: tuple[Extremes, ...]

    @property
    def acceptance_of_fused(self) -> float:
        """The share of ID test images that the fused score accepts."""
        return self.acceptance[FUSED].share

    @property
    def title(self) -> str:
        """What was evaluated: `Evaluation of photos version 2, trained on shop`."""
        named = f" of {self.run}" if self.run else ""
        return f"Evaluation{named}" + (f", trained on {self.data}" if self.data else "")


def mean_table(tables: Mapping[str, DetectionTable]) -> dict[str, float]:
    """Mean AUROC over draws, by score."""
    names = next(iter(tables.values())).scores
    return {name: float(np.mean([t.scores[name].auroc for t in tables.values()])) for name in names}


def read_evaluation(run_folder: Path) -> Evaluation:
    """The saved evaluation of a run."""
    return Evaluation.model_validate(json.loads((run_folder / JSON_FILE).read_text(encoding="utf-8")))
