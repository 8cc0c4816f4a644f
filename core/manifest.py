"""The bundle's manifest: everything about a bundle that is not in its graph, and how its files are verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from oodguard.core.added import AddedClass
from oodguard.core.calibration import Calibration
from oodguard.core.classifier import ClassifierRecord
from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import FormatError, QualityError
from oodguard.core.files import file_sha256, read_text
from oodguard.core.frozen import Frozen, first_fault
from oodguard.core.golden import Golden, require_judged
from oodguard.core.lineage import VersionRef
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.provenance import NAME, Provenance, Recalibration, SourceName
from oodguard.core.quality import Traits
from oodguard.core.scores import Family, ScoreName
from oodguard.core.targets import Targets
from oodguard.core.verdict import DEFAULT_TOP_K, Measured, Outputs, Thresholds, Verdict

if TYPE_CHECKING:
    from oodguard.core.signature import Trust

SCHEMA_VERSION = 4
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
INPUT_NAME = "images"
PROBABILITIES_NAME = "probabilities"
SCORES_NAME = "scores"
NEIGHBOURS_NAME = "neighbours"
DISTANCES_NAME = "distances"
STANDALONE_FILE = "standalone.onnx"
ACCEPT_NAME = "accept"
MAX_MANIFEST_BYTES = 64 * 2**20

# What answers without a source are called where sources are counted; no source may have this name.
DEFAULT_SOURCE = "default"
MAX_SOURCES = 64

Precision = Literal["fp32", "fp16", "int8"]


class TensorSpec(Frozen):
    """One tensor of the graph; a string in `shape` is a dynamic axis."""

    name: str
    dtype: Literal["uint8", "int32", "int64", "float32"]
    shape: tuple[int | str, ...]


# What the standalone graph returns. `is_ood` is 0 or 1, since some runtimes have no booleans.
STANDALONE_OUTPUTS = (
    TensorSpec(name="label", dtype="int64", shape=("batch",)),
    TensorSpec(name="probability", dtype="float32", shape=("batch",)),
    TensorSpec(name="is_ood", dtype="float32", shape=("batch",)),
    TensorSpec(name="ood_score", dtype="float32", shape=("batch",)),
    TensorSpec(name="percentile", dtype="float32", shape=("batch",)),
)


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
        if not path.parts or not self.path.isprintable():
            raise ValueError(f"{self.path!r} is not a path")
        return self


class ScoreEntry(Frozen):
    """One column of the graph's `scores`, as people read it."""

    name: ScoreName
    family: Family
    title: str
    meaning: str


class Parity(Frozen):
    """What the export gate measured, on `images` real images.

    fp32: PyTorch against ONNX Runtime, number by number. int8 and fp16: the graph's decisions against the fp32 graph's,
    each by its own thresholds: shares of equal labels and equal flags, and, by OOD set, the fused score's AUROC less
    the fp32 graph's. `tolerance` is how far a runtime may be from the golden images' expected scores. `own_images`: on
    so many images the probabilities were those of the wrapped classifier, bit for bit, at batch 1 and 8.
    """

    images: int = Field(ge=1)
    tolerance: float = Field(gt=0)
    score_tolerance: dict[ScoreName, float] = Field(
        default_factory=dict, description="of scores that rounding moves by more than `tolerance`"
    )
    probability_tolerance: float = Field(0.0, ge=0, description="the same of probabilities")
    max_probability_error: float
    max_score_error: dict[ScoreName, float]
    labels_identical: bool
    verdicts_identical: bool
    precision: Precision = "fp32"
    label_agreement: float = Field(1.0, ge=0, le=1)
    flag_agreement: float = Field(1.0, ge=0, le=1)
    auroc_change: dict[str, float] = Field(default_factory=dict)
    own_images: int | None = Field(None, ge=1)

    def allowed(self, name: ScoreName) -> float:
        """How far a runtime may be from the expected score `name`."""
        return max(self.tolerance, self.score_tolerance.get(name, 0.0))


class Standalone(Frozen):
    """The graph that gives verdicts by itself: `images` and, optionally, `accept` to `outputs` (docs/STANDALONE.md).

    The export gate compared it with the calibration on the golden images and on `rows` rows of raw scores. Of these,
    `max_score_error` is the largest |difference| of `ood_score`, relative to the score or to 1.

    calibration_sha256: of the calibration inside it, so that a new one cannot be served beside an old graph.
    """

    graph: str
    calibration_sha256: str
    outputs: tuple[TensorSpec, ...]
    rows: int = Field(ge=1)
    max_score_error: float = Field(ge=0)


class Manifest(Frozen):
    """Everything about a bundle that is not in the graph."""

    schema_version: Literal[4] = Field(4, description="Which form of manifest this is; another is refused.")
    name: str = Field(pattern=NAME, description="The model's name, as answers give it.")
    version: str = Field(pattern=NAME, description="The model's version, as answers give it.")
    precision: Precision = Field("fp32", description="The graph's arithmetic: fp32, fp16 or int8.")
    graph: str = Field(GRAPH_FILE, description="The graph's file.")
    input: TensorSpec = Field(description="What the graph takes: RGB pixels.")
    outputs: tuple[TensorSpec, ...] = Field(
        min_length=2,
        description="What it returns, one row per image: class probabilities and raw scores; where there is a bank, "
        "also the nearest rows of the bank and their distances.",
    )
    preprocessing: Preprocessing = Field(
        description="How image bytes become those pixels; channels, scale, mean and std are applied inside the graph."
    )
    classes: tuple[str, ...] = Field(min_length=2, description="Class names, in the order of the probabilities.")
    scores: tuple[ScoreEntry, ...] = Field(min_length=1, description="Each column of the scores, in graph order.")
    calibration: Calibration = Field(
        description="The quantile curve of every score on calibration images, and how the scores become the fused one."
    )
    sources: dict[SourceName, Calibration] = Field(
        default_factory=dict,
        max_length=MAX_SOURCES,
        description="Other calibrations, for the images of one source each, such as a camera; a request names one.",
    )
    recalibrations: tuple[Recalibration, ...] = Field(
        (), description="The last recalibration of each source, and of the calibration."
    )
    added: tuple[AddedClass, ...] = Field((), description="Classes that add-class brought, in order.")
    targets: Targets = Field(
        Targets(), description="What answers are to keep where neither server nor request asks for anything else."
    )
    provenance: Provenance = Field(
        description="What it was trained from: data, weights, options, versions, and the accuracy it reached."
    )
    classifier: ClassifierRecord | None = Field(
        None, description="The classifier that the guard was put around: its file and its parts; null: it has its own."
    )
    run: VersionRef | None = Field(None, description="The run that it is made of, by the SHA-256 of its run.json.")
    follows: VersionRef | None = Field(
        None, description="The bundle that it was made from or took the place of, by the SHA-256 of its manifest.json."
    )
    diagnosis: CollusionReport | None = Field(
        None, description="Whether the ensemble's members collude, on calibration images."
    )
    parity: Parity = Field(description="What the export gate measured on real images.")
    golden: tuple[Golden, ...] = Field(
        min_length=1, description="Real images and the answers that every runtime must give for them."
    )
    bank: str | None = Field(
        None, description="The file that says which training photo each row of the bank is; null: none is named."
    )
    thumbnails: str | None = Field(
        None, description="The file with small copies of the bank's photos; null unless exported with --thumbnails."
    )
    standalone: Standalone | None = Field(
        None, description="The graph that gives verdicts by itself, where export was asked for it."
    )
    files: tuple[FileRef, ...] = Field(description="Every other file of the bundle, with size and SHA-256.")

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        names = tuple(entry.name for entry in self.scores)
        for source, calibration in ((None, self.calibration), *self.sources.items()):
            if names != calibration.names:
                raise ValueError("the calibration is not of these scores, in this order")
            answering = calibration.answering
            if answering is not None and len(answering.offsets) != len(self.classes):
                raise ValueError("the calibration is not of these classes")
            self.thresholds(self.targets, source=source)
        if DEFAULT_SOURCE in self.sources:
            raise ValueError(f"a source may not be called {DEFAULT_SOURCE}")
        for golden in self.golden:
            if len(golden.probabilities) != len(self.classes) or len(golden.scores) != len(names):
                raise ValueError(f"the expected output of {golden.path} does not fit the classes and scores")
        require_judged(self.golden, self.calibration, self.targets)
        if self.standalone is not None and self.standalone.calibration_sha256 != calibration_sha256(self.calibration):
            raise ValueError("the standalone graph was made of another calibration; export the bundle again")
        wanted = (PROBABILITIES_NAME, SCORES_NAME, *((NEIGHBOURS_NAME, DISTANCES_NAME) if self.bank else ()))
        if self.output_names != wanted:
            raise ValueError(f"the outputs must be {', '.join(wanted)}")
        if self.thumbnails and not self.bank:
            raise ValueError("thumbnails need a bank")
        listed = {ref.path for ref in self.files}
        own = None if self.standalone is None else self.standalone.graph
        named = (self.graph, *(golden.path for golden in self.golden), self.bank, self.thumbnails, own)
        missing = {path for path in named if path is not None} - listed
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} is not in the list of files")
        return self

    @property
    def graph_sha256(self) -> str:
        """The hash of the graph's file."""
        return next(ref.sha256 for ref in self.files if ref.path == self.graph)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in order."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def max_accept(self) -> float:
        """The highest target acceptance that the calibration can promise."""
        return self.calibration.max_accept

    @property
    def has_label_sets(self) -> bool:
        """Whether answers hold the set of labels that hold the true one with a promised chance."""
        return self.calibration.answering is not None

    @property
    def score_names(self) -> tuple[ScoreName, ...]:
        """The columns of `scores`, in order."""
        return self.calibration.names

    def calibration_of(self, source: str | None) -> Calibration:
        """The calibration for the images of a source; None: for images that name none. Raises `ValueError`."""
        if source is None:
            return self.calibration
        found = self.sources.get(source)
        if found is None:
            there = f"there are {', '.join(self.sources)}" if self.sources else "this bundle has no sources"
            raise ValueError(f"unknown source {source[:80]!r}; {there}")
        return found

    def thresholds(self, targets: Targets, *, source: str | None = None) -> Thresholds:
        """Every threshold at its target. Raises `ValueError` for a target that the calibration cannot promise."""
        return self.calibration_of(source).thresholds(
            targets.accept,
            confidence=targets.confidence,
            coverage=targets.coverage,
            max_error=targets.max_error,
        )

    def measure(self, outputs: Outputs, *, source: str | None = None) -> Measured:
        """`Calibration.measure`; raises `QualityError` also where the graph's classes are not the manifest's."""
        if outputs.probabilities.shape[1:] != (len(self.classes),):
            raise QualityError(
                f"the graph returned probabilities {outputs.probabilities.shape} for {len(self.classes)} classes"
            )
        return self.calibration_of(source).measure(outputs)

    def verdicts(
        self,
        measured: Measured,
        *,
        targets: Targets | None = None,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
        traits: Sequence[Traits | None] | None = None,
    ) -> list[Verdict]:
        """One verdict per image of a batch measured for a source, with these traits; `targets`: the manifest's own.

        Raises `ValueError` for a target that the calibration cannot promise, an unknown source or a `top_k` below 1.
        """
        thresholds = self.thresholds(self.targets if targets is None else targets, source=source)
        calibration = self.calibration_of(source)
        return calibration.verdicts(measured, classes=self.classes, thresholds=thresholds, top_k=top_k, traits=traits)

    def judge(
        self,
        outputs: Outputs,
        *,
        targets: Targets | None = None,
        top_k: int = DEFAULT_TOP_K,
        source: str | None = None,
    ) -> list[Verdict]:
        """One verdict per image; raises `ValueError` as `verdicts` does and `QualityError` as `measure` does.

        ```python
        verdicts = manifest.judge(outputs, targets=Targets(accept=0.99))
        ```
        """
        return self.verdicts(self.measure(outputs, source=source), targets=targets, top_k=top_k, source=source)


def calibration_sha256(calibration: Calibration) -> str:
    """What identifies a calibration; fields that it does not use do not count."""
    return hashlib.sha256(calibration.model_dump_json(exclude_defaults=True).encode()).hexdigest()


def reference_of(manifest: Manifest, text: bytes) -> VersionRef:
    """How a later bundle names the one whose manifest.json holds `text`."""
    return VersionRef(
        name=manifest.name,
        version=manifest.version,
        created=manifest.provenance.created,
        sha256=hashlib.sha256(text).hexdigest(),
    )


def load_manifest(bundle: Path, *, trust: Trust | None = None) -> Manifest:
    """Read a bundle's manifest and verify every file it lists: existence, size and SHA-256.

    trust: the keys one of which must have signed the manifest; None: anybody's will do.

    Raises `FormatError`, in one sentence, for anything that does not fit.
    """
    path = bundle / MANIFEST_FILE
    try:
        text = read_text(path, most=MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if not bundle.is_dir():
            raise FormatError(f"{bundle} is not a bundle: there is no such folder") from None
        raise FormatError(
            f"{bundle} is not a bundle: it has no {MANIFEST_FILE}; oodguard export makes a bundle of a run"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read ({error})") from None
    if trust is not None:
        trust.require(path, text.encode())
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is not valid JSON") from None
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        raise FormatError(f"{bundle} has schema version {found}; this oodguard reads version {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise FormatError(f"{path} does not fit its schema: {first_fault(error, whole='manifest')}") from None
    for ref in manifest.files:
        file = bundle / ref.path
        try:
            if not file.is_file():
                raise FormatError(f"{bundle} is incomplete: {ref.path} is missing")
            same = file.stat().st_size == ref.bytes and file_sha256(file) == ref.sha256
        except OSError as error:
            raise FormatError(f"{file} cannot be read ({error.strerror or error})") from None
        if not same:
            raise FormatError(f"{ref.path} in {bundle} was changed after export: its SHA-256 does not match")
    return manifest
