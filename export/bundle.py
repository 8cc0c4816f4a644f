"""`export_bundle`: from a run folder to a bundle folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from oodguard.core.bank import BANK_FILE, NEAREST
from oodguard.core.calibration import Calibration
from oodguard.core.errors import EnvironmentProblem, FormatError, InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.golden import Golden, judged
from oodguard.core.lineage import VersionRef, next_version, versions_beside
from oodguard.core.manifest import (
    DISTANCES_NAME,
    GRAPH_FILE,
    INPUT_NAME,
    MANIFEST_FILE,
    NEIGHBOURS_NAME,
    PROBABILITIES_NAME,
    SCORES_NAME,
    STANDALONE_FILE,
    FileRef,
    Manifest,
    Parity,
    Precision,
    ScoreEntry,
    Standalone,
    TensorSpec,
    load_manifest,
    reference_of,
)
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.provenance import NAME
from oodguard.core.sharpening import Sharpening
from oodguard.core.thumbnails import THUMBNAILS_FILE
from oodguard.core.verdict import Outputs
from oodguard.export.fuse import FusedGuard
from oodguard.export.graph import run_graph, session, to_onnx, with_metadata
from oodguard.export.parity import (
    ALLOWED,
    compare,
    compare_decisions,
    require,
    require_decisions,
    require_distances,
    undecided,
)
from oodguard.export.provenance import provenance
from oodguard.export.reduce import Lower, Material, gather, reduce
from oodguard.export.rounding import allowed_by_rounding
from oodguard.export.standalone import standalone
from oodguard.export.standalone_parity import measure_standalone
from oodguard.export.strange import strange_golden
from oodguard.export.thumbnails import bank_photos, pack
from oodguard.export.wrapped_graph import WrappedGraph
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import GOLDEN_FOLDER
from oodguard.training.run import Run, finish, load_run, reference


@dataclass(frozen=True)
class Content:
    """What differs between precisions: calibration, golden images and their answers, and what the gate measured."""

    precision: Precision
    calibration: Calibration
    golden: tuple[Path, ...]
    answers: Outputs
    parity: Parity

    @cached_property
    def verdicts(self) -> dict[Path, tuple[int, bool]]:
        """Class and flag of every golden image."""
        flags = self.calibration.flagged(self.answers)
        classes = self.answers.probabilities.argmax(1)
        return {path: (int(classes[i]), bool(flags[i])) for i, path in enumerate(self.golden)}


def export_bundle(
    run_folder: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    precision: Precision = "fp32",
    data: Path | None = None,
    ood: Mapping[str, Path] | None = None,
    allow_collusion: bool = False,
    thumbnails: bool = False,
    keep_probabilities: bool = False,
    with_standalone: bool = False,
    overwrite: bool = False,
    report: Reporter | None = None,
) -> Manifest:
    """Export a run as a bundle: one ONNX graph, a manifest, golden images; gated by parity.

    ```python
    manifest = export_bundle(Path("runs/produce"), Path("bundles/produce"), precision="int8")
    ```

    version: None: the whole number after the versions of the same name at `out` and in the folders beside it, or 1.

    keep_probabilities: let probabilities leave the guard as the graph gives them, in place of chances; those of a
    wrapped classifier always do.

    int8 and fp16 need the run's photos, at `data` where they have moved, and set every threshold anew on the converted
    graph's scores; `ood` are folders whose detection must not suffer. `thumbnails` need the photos, too: whoever has
    the bundle can then look at small copies of the training photos in its bank.
    `with_standalone` adds a graph that gives verdicts by itself. `overwrite` replaces the bundle at `out`.

    Raises `QualityError` when the graph does not answer as it must, or when the ensemble's members collude (unless
    `allow_collusion`; the manifest says so either way), `InputError` and `FormatError` for what the user
    can mend. A bundle appears at `out` complete or not at all.
    """
    report = report or Silent()
    run = load_run(run_folder)
    if run.record.diagnosis is not None and run.record.diagnosis.colluding and not allow_collusion:
        raise QualityError(
            f"the ensemble of {run_folder} is {run.record.diagnosis.verdict}; train it without joint training, or "
            "export it as it is with --allow-collusion"
        )
    # A run that follows another one is a version of the same model, whatever its folder is called.
    name = name or (run.record.name if run.record.parent else None) or run_folder.resolve().name
    version = _version(name, version, out)
    if (out / MANIFEST_FILE).is_file():
        if not overwrite:
            raise InputError(f"{out} is a bundle; choose another --out, or add --overwrite to replace it")
    elif out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a bundle; choose another --out")
    own = run.record.classifier
    if precision == "fp32" and (ood or (data and not thumbnails and own is None)):
        raise InputError(
            "--data and --ood are for --precision int8 and fp16, --data also for --thumbnails and for wrapped "
            "classifiers; fp32 has the run's own thresholds"
        )
    if own is not None and precision == "fp16":
        raise InputError(
            f"fp16 would change the probabilities of {own.file}, which keeps its own arithmetic; export fp32 or int8, "
            "or wrap a float16 file of it"
        )
    scratch = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        # First of all: it is quick, and what it finds missing only the user can mend.
        material = None if precision == "fp32" else gather(run, run_folder, data=data, ood=ood or {})
        pictured = bank_photos(run, run_folder, data=data) if thumbnails else ()
        # The probabilities of a wrapped classifier are its own, and leave the guard as they are.
        keep = keep_probabilities or own is not None
        writer = _Writer(run, run_folder, scratch, name=name, version=version, keep_probabilities=keep)
        writer.wrapped = WrappedGraph.of(run, run_folder, golden=writer.images, data=data, report=report)
        writer.follows = _replaced(out)
        report.progress("fused graph", 0, 1)
        content = writer.exact()
        report.progress("fused graph", 1, 1)
        if precision != "fp32" and material is not None:
            content = writer.reduced(content, precision, material, report=report)
        if pictured:
            pack(pictured, scratch / THUMBNAILS_FILE, report=report)
        manifest = writer.manifest(content, writer.standalone(content) if with_standalone else None)
        (scratch / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        load_manifest(scratch)
        finish(scratch, out)
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _version(name: str, version: str | None, out: Path) -> str:
    """The version to export. Raises `InputError` for a name or version that no manifest takes."""
    for flag, value in (("--name", name), ("--model-version", version or "1")):
        if not re.fullmatch(NAME, value):
            raise InputError(f"{flag} takes letters, digits, dots, hyphens and underscores, at most 64; got {value!r}")
    return version or next_version(versions_beside(out, name, record=MANIFEST_FILE))


def _replaced(out: Path) -> VersionRef | None:
    """The bundle at `out`, which a new one takes the place of; None where none is, or one of another schema."""
    try:
        text = (out / MANIFEST_FILE).read_bytes()
        old = Manifest.model_validate_json(text)
    except (OSError, ValidationError):
        return None
    return reference_of(old, text)


class _Writer:
    """Fills a scratch folder with graph and golden images, and describes them."""

    def __init__(
        self, run: Run, run_folder: Path, scratch: Path, *, name: str, version: str, keep_probabilities: bool
    ) -> None:
        self.run, self.run_folder, self.scratch = run, run_folder, scratch
        self.name, self.version, self.keep_probabilities = name, version, keep_probabilities
        self.follows: VersionRef | None = None
        originals = sorted((run_folder / GOLDEN_FOLDER).glob("*"))
        if not originals:
            raise FormatError(f"{run_folder} is incomplete: it has no golden images")
        (scratch / GOLDEN_FOLDER).mkdir()
        self.wrapped: WrappedGraph | None = None
        self.golden = tuple(Path(shutil.copyfile(p, scratch / GOLDEN_FOLDER / p.name)) for p in originals)
        self.images: Pixels = np.stack(
            [load_pixels(p.read_bytes(), run.record.preprocessing, TRAINING_LIMITS) for p in self.golden]
        )

    def exact(self) -> Content:
        """The float32 graph, which must answer as PyTorch does."""
        record = self.run.record
        probabilities, scores = self.run.predict(self.images)
        expected = Outputs(probabilities=probabilities, scores=scores)
        metadata, own_images = self._metadata("fp32"), None
        if self.wrapped is None:
            graph = to_onnx(FusedGuard(self.run).eval(), record.preprocessing, metadata=metadata)
        else:
            graph, own_images = self.wrapped.float32(metadata)
        (self.scratch / GRAPH_FILE).write_bytes(graph)
        calibration = record.calibration
        answering = calibration.answering
        if self.keep_probabilities and answering is not None and answering.sharpening != Sharpening():
            calibration = calibration.answered(self.run.labelled, keep_probabilities=True)
        found = run_graph(session(graph), self.images)
        allowed = allowed_by_rounding(self.run, self.images)
        edge = undecided(calibration, expected, found, allowed=allowed)
        if edge.any() and not edge.all():
            # A calibration photo can be the threshold itself; a golden image must be answered alike by every runtime.
            self._keep(np.flatnonzero(~edge).tolist())
            expected, found = expected.rows(~edge), found.rows(~edge)
        parity = compare(calibration, expected, found, allowed=allowed)
        require(parity)
        require_distances(self.run.distances(self.images), found, allowed=allowed.distances)
        parity = parity.model_copy(update={"own_images": own_images})
        content = Content("fp32", calibration, self.golden, expected, parity)
        lower = "fp32" if self.wrapped is None else self.wrapped.arithmetic
        if lower == "fp32":
            return content
        # Kernels of integers and of float16 differ from machine to machine, the classifier's own as ours.
        parity = parity.model_copy(update={"tolerance": ALLOWED[lower].tolerance})
        return self._steady(replace(content, parity=parity), content, graph)

    def reduced(self, exact: Content, precision: Lower, material: Material, *, report: Reporter) -> Content:
        """A graph of lower precision in place of the float32 one, which must come to the same decisions."""
        made = reduce(
            self.run,
            (self.scratch / GRAPH_FILE).read_bytes(),
            precision,
            material,
            wrapped=self.wrapped,
            keep_probabilities=self.keep_probabilities,
            report=report,
        )
        graph = with_metadata(made.graph, self._metadata(precision))
        (self.scratch / GRAPH_FILE).write_bytes(graph)
        parity = compare_decisions(made.reference, made.reduced, precision)
        parity = parity.model_copy(update={"own_images": exact.parity.own_images})
        require_decisions(parity)
        calibration = made.reduced.calibration
        answers = run_graph(session(graph), self.images)
        content = Content(precision, calibration, self.golden, answers, parity)
        return self._steady(content, exact, graph)

    def _steady(self, content: Content, exact: Content, graph: bytes) -> Content:
        """Without the golden images on the edge of a decision: every runtime must answer the others alike."""
        plain = run_graph(session(graph, optimised=False), self.images)
        elsewhere = replace(content, answers=plain).verdicts
        steady = [
            i for i, path in enumerate(self.golden) if exact.verdicts[path] == content.verdicts[path] == elsewhere[path]
        ]
        if not steady:
            raise QualityError(
                f"the {content.precision} graph changes the answer for every golden image; nothing was exported"
            )
        self._keep(steady)
        return replace(content, golden=self.golden, answers=content.answers.rows(np.array(steady)))

    def _keep(self, places: list[int]) -> None:
        """Let go of the golden images at other places."""
        for i in set(range(len(self.golden))) - set(places):
            self.golden[i].unlink()
        self.golden, self.images = tuple(self.golden[i] for i in places), self.images[places]

    def standalone(self, content: Content) -> Standalone:
        """The graph that gives verdicts by itself, beside the one that it is made of."""
        graph, targets = (self.scratch / GRAPH_FILE).read_bytes(), self.run.record.targets
        level = content.calibration.curve.level(targets.accept, confidence=targets.confidence)
        foreign = self.wrapped is not None
        made = standalone(graph, content.calibration, accept=level, foreign=foreign)
        # Once the file has left the bundle, it must still say which class is which.
        names = json.dumps(self.run.record.classes)
        made = with_metadata(made, {**self._metadata(content.precision), "oodguard.classes": names})
        measured = measure_standalone(graph, made, content.calibration, accept=level, images=self.images)
        (self.scratch / STANDALONE_FILE).write_bytes(made)
        return measured

    def manifest(self, content: Content, standalone: Standalone | None) -> Manifest:
        """The manifest of what lies in the scratch folder."""
        record = self.run.record
        nearest = ("batch", min(NEAREST, len(self.run.bank)))
        (self.scratch / BANK_FILE).write_text(self.run.bank.model_dump_json(), encoding="utf-8")
        pictures = self.scratch / THUMBNAILS_FILE
        extra = [
            self.scratch / BANK_FILE,
            *([pictures] if pictures.is_file() else []),
            *([self.scratch / standalone.graph] if standalone else []),
        ]
        return Manifest(
            name=self.name,
            version=self.version,
            precision=content.precision,
            input=TensorSpec(name=INPUT_NAME, dtype="uint8", shape=("batch", *record.preprocessing.shape)),
            outputs=(
                TensorSpec(name=PROBABILITIES_NAME, dtype="float32", shape=("batch", len(record.classes))),
                TensorSpec(name=SCORES_NAME, dtype="float32", shape=("batch", len(record.heads.scores))),
                TensorSpec(name=NEIGHBOURS_NAME, dtype="int32", shape=nearest),
                TensorSpec(name=DISTANCES_NAME, dtype="float32", shape=nearest),
            ),
            preprocessing=record.preprocessing,
            classes=record.classes,
            scores=tuple(
                ScoreEntry(name=spec.name, family=spec.family, title=spec.title, meaning=spec.meaning)
                for spec in record.heads.specs
            ),
            calibration=content.calibration,
            targets=record.targets,
            provenance=provenance(record),
            # Where photos lie on the machine that trained is nobody else's business.
            classifier=record.classifier and record.classifier.model_copy(update={"unseen": None}),
            run=reference(record, self.run_folder),
            follows=self.follows,
            diagnosis=record.diagnosis,
            parity=content.parity,
            golden=judged([*self._photos(content), *self._strange(content)], content.calibration, record.targets),
            bank=BANK_FILE,
            thumbnails=THUMBNAILS_FILE if pictures.is_file() else None,
            standalone=standalone,
            files=tuple(
                FileRef(path=p.relative_to(self.scratch).as_posix(), bytes=p.stat().st_size, sha256=file_sha256(p))
                for p in (self.scratch / GRAPH_FILE, *extra, *sorted((self.scratch / GOLDEN_FOLDER).iterdir()))
            ),
        )

    def _photos(self, content: Content) -> list[Golden]:
        probabilities, scores = content.answers.probabilities, content.answers.scores
        return [
            Golden(
                path=path.relative_to(self.scratch).as_posix(),
                label=self.run.record.classes[label],
                is_ood=is_ood,
                probabilities=tuple(probabilities[i].tolist()),
                scores=tuple(scores[i].tolist()),
            )
            for i, (path, (label, is_ood)) in enumerate(content.verdicts.items())
        ]

    def _strange(self, content: Content) -> list[Golden]:
        graph = (self.scratch / GRAPH_FILE).read_bytes()
        record = self.run.record
        return strange_golden(
            record.preprocessing,
            content.calibration,
            record.targets,
            [session(graph), session(graph, optimised=False)],
            classes=record.classes,
            bundle=self.scratch,
            folder=GOLDEN_FOLDER,
        )

    def _metadata(self, precision: Precision) -> dict[str, str]:
        return {
            "oodguard.name": self.name,
            "oodguard.version": self.version,
            "oodguard.run": self.run.record.weights_sha256,
            "oodguard.precision": precision,
        }
