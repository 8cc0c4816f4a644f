"""The bundle: its manifest, how it is verified, and `Manifest.judge`, which turns the graph's numbers into a verdict.

No torch here: the server and the clients use this file as it is.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, ValidationError, model_validator

from oodguard.core.calibration import DEFAULT_ACCEPT, Fusion, QuantileCurve
from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import FormatError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.scores import Family, ScoreName
from oodguard.core.verdict import ClassProbability, Measured, ScoreVerdict, Thresholds, Verdict

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
INPUT_NAME = "images"
PROBABILITIES_NAME = "probabilities"
SCORES_NAME = "scores"
THRESHOLDS_KEPT = 256

Floats = npt.NDArray[np.float32]
Precision = Literal["fp32", "fp16", "int8"]


class Outputs(Frozen):
    """What the graph returns for B images: `probabilities [B, C]` and `scores [B, S]`, float32."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    probabilities: Floats
    scores: Floats


class TensorSpec(Frozen):
    """One tensor of the graph; a string in `shape` is a dynamic axis."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class FileRef(Frozen):
    """A file of the bundle, by its path inside the bundle."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _stays_inside(self) -> FileRef:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or "\\" in self.path:
            raise ValueError(f"{self.path} leaves the bundle")
        return self


class ScoreEntry(Frozen):
    """One column of `scores`, with its calibration on held-out ID images.

    `lipschitz`: how much the score can change a unit of distance between features, where that is known exactly.
    """

    name: ScoreName
    family: Family
    title: str
    meaning: str
    curve: QuantileCurve
    lipschitz: float | None = Field(None, gt=0)


class Provenance(Frozen):
    """Where the graph comes from: enough to train it again."""

    oodguard: str
    created: str
    seed: int
    backbone: str
    weights_source: str
    weights_sha256: str
    data_fingerprint: str
    train_images: int
    calibration_images: int
    versions: dict[str, str]
    options: dict[str, str | int | float | bool | None]
    metrics: dict[str, float]


class Parity(Frozen):
    """What the export gate measured, on `images` real images.

    fp32: PyTorch against ONNX Runtime, number by number. int8 and fp16: the graph's decisions against the fp32 graph's,
    each by its own thresholds: shares of equal labels and equal flags, and, by OOD set, the fused score's AUROC less
    the fp32 graph's. `tolerance` is how far a runtime may be from the golden images' expected scores.
    """

    images: int = Field(ge=1)
    tolerance: float = Field(gt=0)
    max_probability_error: float
    max_score_error: dict[ScoreName, float]
    labels_identical: bool
    verdicts_identical: bool
    precision: Precision = "fp32"
    label_agreement: float = Field(1.0, ge=0, le=1)
    flag_agreement: float = Field(1.0, ge=0, le=1)
    auroc_change: dict[str, float] = Field(default_factory=dict)


class Golden(Frozen):
    """A real image and the answer the bundle must give for it."""

    path: str
    label: str
    is_ood: bool
    probabilities: tuple[float, ...]
    scores: tuple[float, ...]


class Manifest(Frozen):
    """Everything about a bundle that is not in the graph."""

    schema_version: Literal[1] = Field(1, description="Which form of manifest this is; another is refused.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The model's name, as answers give it.")
    version: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The model's version, as answers give it."
    )
    precision: Precision = Field("fp32", description="The graph's arithmetic: fp32, fp16 or int8.")
    graph: str = Field(GRAPH_FILE, description="The graph's file.")
    input: TensorSpec = Field(description="What the graph takes: RGB pixels.")
    outputs: tuple[TensorSpec, TensorSpec] = Field(
        description="What it returns: class probabilities and raw scores, one row an image."
    )
    preprocessing: Preprocessing = Field(
        description="How image bytes become those pixels; mean and std are applied inside the graph."
    )
    classes: tuple[str, ...] = Field(min_length=2, description="Class names, in the order of the probabilities.")
    scores: tuple[ScoreEntry, ...] = Field(
        min_length=1, description="Each column of the scores, with its quantile curve on calibration images."
    )
    fusion: Fusion = Field(description="How the scores become the one that decides, and that one's quantile curve.")
    default_accept: float = Field(
        DEFAULT_ACCEPT, gt=0, lt=1, description="Target acceptance where neither server nor request names one."
    )
    provenance: Provenance = Field(
        description="What it was trained from: data, weights, options, versions, and the accuracy it reached."
    )
    diagnosis: CollusionReport | None = Field(
        None, description="Whether the ensemble's members collude, on calibration images."
    )
    parity: Parity = Field(description="What the export gate measured on real images.")
    golden: tuple[Golden, ...] = Field(
        min_length=1, description="Real images and the answers that every runtime must give for them."
    )
    files: tuple[FileRef, ...] = Field(description="Every other file of the bundle, with size and SHA-256.")

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        names = tuple(entry.name for entry in self.scores)
        if len(set(names)) != len(names):
            raise ValueError("score names repeat")
        if self.default_accept > self.max_accept:
            raise ValueError(f"default_accept {self.default_accept} is above what the calibration can promise")
        for golden in self.golden:
            if len(golden.probabilities) != len(self.classes) or len(golden.scores) != len(names):
                raise ValueError(f"the expected output of {golden.path} does not fit the classes and scores")
        listed = {ref.path for ref in self.files}
        missing = ({self.graph} | {golden.path for golden in self.golden}) - listed
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} is not in the list of files")
        return self

    @property
    def graph_sha256(self) -> str:
        """The hash of the graph's file."""
        return next(ref.sha256 for ref in self.files if ref.path == self.graph)

    @property
    def max_accept(self) -> float:
        """The highest target acceptance the calibration can promise."""
        return self.fusion.curve.max_accept

    @property
    def score_names(self) -> tuple[ScoreName, ...]:
        """The columns of `scores`, in order."""
        return tuple(entry.name for entry in self.scores)

    def fused(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The fused score `[B]` of graph scores `[B, S]` (see `Fusion`)."""
        return self.fusion.score({e.name: e.curve for e in self.scores}, self.columns(scores))

    def columns(self, scores: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
        """Graph scores `[B, S]` as one `[B]` array a name."""
        table = np.asarray(scores, dtype=np.float64)
        return {name: table[:, i] for i, name in enumerate(self.score_names)}

    def score_errors(self, expected: npt.ArrayLike, found: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Relative errors `[B, S]` of scores: |found - expected| / max(|expected|, the score's range on ID data).

        The range keeps a score that happens to be near 0 from being compared to nothing.
        """
        a, b = np.asarray(expected, dtype=np.float64), np.asarray(found, dtype=np.float64)
        ranges = np.array([entry.curve.values[-1] - entry.curve.values[0] for entry in self.scores])
        return np.asarray(np.abs(a - b) / np.maximum(np.maximum(np.abs(a), ranges), 1e-12))

    def judge(self, outputs: Outputs, *, accept: float | None = None, top_k: int = 5) -> list[Verdict]:
        """One verdict an image.

        ```python
        verdicts = manifest.judge(outputs, accept=0.99)
        ```

        accept: the share of ID images that must not be flagged; each threshold is read off its quantile curve.
        Raises `ValueError` for an `accept` the calibration cannot promise or a `top_k` below 1, and `QualityError`
        when the graph returned the wrong shape or a number that is not finite.
        """
        measured = self.measure(outputs)
        return [self.verdict(measured, row, accept=accept, top_k=top_k) for row in range(len(measured.fused))]

    def measure(self, outputs: Outputs) -> Measured:
        """The part of a verdict that no threshold moves, for a whole batch.

        Raises `QualityError` when the graph returned the wrong shape or a number that is not finite.
        """
        probabilities, scores = outputs.probabilities, outputs.scores
        batch = len(probabilities)
        if probabilities.shape != (batch, len(self.classes)) or scores.shape != (batch, len(self.scores)):
            raise QualityError(
                f"the graph returned probabilities {probabilities.shape} and scores {scores.shape} "
                f"for {len(self.classes)} classes and {len(self.scores)} scores"
            )
        if not (np.isfinite(probabilities).all() and np.isfinite(scores).all()):
            raise QualityError("the graph returned a number that is not finite")
        fused = self.fused(scores)
        return Measured(
            probabilities=probabilities.tolist(),
            ranked=np.argsort(-probabilities, axis=1, kind="stable").tolist(),
            scores=scores.tolist(),
            percentiles=np.stack(
                [e.curve.percentile(scores[:, i]) for i, e in enumerate(self.scores)], axis=1
            ).tolist(),
            fused=fused.tolist(),
            fused_percentiles=self.fusion.curve.percentile(fused).tolist(),
        )

    def thresholds(self, accept: float) -> Thresholds:
        """Every threshold at a target acceptance. Raises `ValueError` for one the calibration cannot promise."""
        found = self._thresholds.get(accept)
        if found is None:
            found = Thresholds(
                fused=self.fusion.curve.threshold(accept),
                scores=tuple((e.name, e.curve.threshold(accept)) for e in self.scores),
            )
            if len(self._thresholds) < THRESHOLDS_KEPT:
                self._thresholds[accept] = found
        return found

    @cached_property
    def _thresholds(self) -> dict[float, Thresholds]:
        return {}

    def verdict(self, measured: Measured, row: int, *, accept: float | None = None, top_k: int = 5) -> Verdict:
        """The verdict for one image of a measured batch. Raises `ValueError` as `judge` does."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1; got {top_k}")
        thresholds = self.thresholds(self.default_accept if accept is None else accept)
        probabilities = measured.probabilities[row]
        top = tuple(
            ClassProbability(label=self.classes[c], class_index=c, probability=probabilities[c])
            for c in measured.ranked[row][:top_k]
        )
        fused = measured.fused[row]
        radius = None
        if self._certified is not None:
            column, lipschitz = self._certified
            radius = abs(thresholds.scores[column][1] - measured.scores[row][column]) / lipschitz
        return Verdict(
            label=top[0].label,
            class_index=top[0].class_index,
            probability=top[0].probability,
            top_k=top,
            is_ood=fused > thresholds.fused,
            ood_score=fused,
            threshold=thresholds.fused,
            percentile=measured.fused_percentiles[row],
            scores={
                name: ScoreVerdict(value=value, threshold=limit, percentile=percentile, is_ood=value > limit)
                for (name, limit), value, percentile in zip(
                    thresholds.scores, measured.scores[row], measured.percentiles[row], strict=True
                )
            },
            certified_radius=radius,
        )

    @cached_property
    def _certified(self) -> tuple[int, float] | None:
        """The column of the score with a known Lipschitz constant, and the constant."""
        for column, entry in enumerate(self.scores):
            if entry.lipschitz is not None:
                return column, entry.lipschitz
        return None


def load_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and verify every file it lists: existence, size and SHA-256.

    Raises `FormatError`, in one sentence, for anything that does not fit.
    """
    path = bundle / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if not bundle.is_dir():
            raise FormatError(f"{bundle} is not a bundle: there is no such folder") from None
        raise FormatError(
            f"{bundle} is not a bundle: it has no {MANIFEST_FILE}; oodguard export makes a bundle of a run"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read ({error})") from None
    try:
        raw = json.loads(text)
    except ValueError:
        raise FormatError(f"{path} is not valid JSON") from None
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        raise FormatError(f"{bundle} has schema version {found}; this oodguard reads version {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise FormatError(f"{path} does not fit its schema: {where}: {first['msg']}") from None
    for ref in manifest.files:
        file = bundle / ref.path
        if not file.is_file():
            raise FormatError(f"{bundle} is incomplete: {ref.path} is missing")
        if file.stat().st_size != ref.bytes or file_sha256(file) != ref.sha256:
            raise FormatError(f"{ref.path} in {bundle} was changed after export: its SHA-256 does not match")
    return manifest
