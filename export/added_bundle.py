"""Writing the bundle with one more class: graph, bank, golden images, and the gate that they pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from oodguard.core.added import AddedClass
from oodguard.core.bank import Bank
from oodguard.core.calibration import Calibration
from oodguard.core.errors import EnvironmentProblem, ImageError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.golden import Golden, judged
from oodguard.core.lineage import VersionRef
from oodguard.core.manifest import (
    MANIFEST_FILE,
    PROBABILITIES_NAME,
    FileRef,
    Manifest,
    Standalone,
    TensorSpec,
    load_manifest,
)
from oodguard.core.preprocessing import Pixels, load_pixels, open_image
from oodguard.core.provenance import Recalibration
from oodguard.core.thumbnails import Thumbnails, small_jpeg, write_thumbnails
from oodguard.core.verdict import Outputs
from oodguard.export.class_photos import BATCH, OpenedGraph
from oodguard.export.graph import OWN_METADATA, run_graph, session, with_metadata
from oodguard.export.head_parts import HeadParts
from oodguard.export.parity import compare, require, require_distances, undecided
from oodguard.export.rounding import allowed_before
from oodguard.export.standalone import standalone
from oodguard.export.standalone_parity import measure_standalone
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter
from oodguard.training.run import finish

# How many photos of the new class join the golden images.
GOLDEN = 2


@dataclass(frozen=True)
class NewBundle:
    """Everything that is new in a bundle with one more class. photos: those of the new class."""

    old: Manifest
    follows: VersionRef
    version: str
    graph: onnx.ModelProto
    heads: HeadParts
    calibration: Calibration
    sources: dict[str, Calibration]
    recalibrations: tuple[Recalibration, ...]
    bank: Bank
    added: AddedClass
    photos: tuple[Photo, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, the new one last."""
        return (*self.old.classes, self.added.name)


@dataclass(frozen=True)
class _Gated:
    """Images that every runtime answers alike, where they are, and the graph's answers."""

    paths: tuple[Path, ...]
    images: Pixels
    answers: Outputs


def write_bundle(new: NewBundle, bundle: Path, out: Path, *, report: Reporter) -> Manifest:
    """Write the new bundle beside the old one, whole or not at all; the manifest.

    Raises `QualityError` where the graph, in batches or image by image, does not answer as its definition in PyTorch
    does, and `EnvironmentProblem` where `out` cannot be written.
    """
    scratch = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        manifest = _AddedWriter(new, bundle, scratch, report).manifest()
        (scratch / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        load_manifest(scratch)
        finish(scratch, out)
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error}); choose another --out") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


class _AddedWriter:
    """Fills a scratch folder."""

    def __init__(self, new: NewBundle, bundle: Path, scratch: Path, report: Reporter) -> None:
        self.new, self.bundle, self.scratch, self.report = new, bundle, scratch, report

    def manifest(self) -> Manifest:
        """The manifest of what lies in the scratch folder then."""
        new, old = self.new, self.new.old
        graph = with_metadata(new.graph.SerializeToString(), self._metadata())
        (self.scratch / old.graph).write_bytes(graph)
        gated, error = self._gate(graph)
        (self.scratch / str(old.bank)).write_text(new.bank.model_dump_json(), encoding="utf-8")
        pictures = self._thumbnails()
        alone = self._standalone(graph, gated.images)
        files = [old.graph, str(old.bank), *pictures, *([alone.graph] if alone else [])]
        files += [path.relative_to(self.scratch).as_posix() for path in gated.paths]
        is_exact = {one.path: one.exact for one in old.golden}
        labels = gated.answers.probabilities.argmax(1)
        parity = old.parity
        if old.precision == "fp32":
            parity = compare(
                new.calibration,
                self._definition(graph, gated.images),
                gated.answers,
                allowed=allowed_before(old.parity),
            ).model_copy(update={"tolerance": old.parity.tolerance})
        return Manifest.model_validate(
            {
                **dict(old),
                "version": new.version,
                "follows": new.follows,
                "outputs": tuple(self._sized(spec) for spec in old.outputs),
                "classes": new.classes,
                "calibration": new.calibration,
                "sources": new.sources,
                "recalibrations": new.recalibrations,
                "added": (*old.added, new.added.model_copy(update={"max_error": error})),
                "parity": parity,
                "golden": judged(
                    [
                        Golden(
                            path=path.relative_to(self.scratch).as_posix(),
                            label=new.classes[labels[i]],
                            is_ood=False,
                            probabilities=tuple(gated.answers.probabilities[i].tolist()),
                            scores=tuple(gated.answers.scores[i].tolist()),
                            exact=is_exact.get(path.relative_to(self.scratch).as_posix(), True),
                        )
                        for i, path in enumerate(gated.paths)
                    ],
                    new.calibration,
                    old.targets,
                ),
                "standalone": alone,
                "files": tuple(
                    FileRef(
                        path=name,
                        bytes=(self.scratch / name).stat().st_size,
                        sha256=file_sha256(self.scratch / name),
                    )
                    for name in files
                ),
            }
        )

    def _metadata(self) -> dict[str, str]:
        """What the old graph says of itself, with the new version."""
        own = {one.key: one.value for one in self.new.graph.metadata_props if one.key.startswith(OWN_METADATA)}
        return {**own, "oodguard.version": self.new.version}

    def _sized(self, spec: TensorSpec) -> TensorSpec:
        if spec.name != PROBABILITIES_NAME:
            return spec
        return TensorSpec(name=spec.name, dtype=spec.dtype, shape=(*spec.shape[:-1], len(self.new.classes)))

    def _limit(self) -> float:
        targets = self.new.old.targets
        return self.new.calibration.thresholds(targets.accept, confidence=targets.confidence).fused

    def _definition(self, graph: bytes, images: Pixels) -> Outputs:
        rows, _ = OpenedGraph(onnx.load_from_string(graph), self.new.old.preprocessing).run(images)
        return self.new.heads.answers(rows, self.new.old.score_names)

    def _gate(self, graph: bytes) -> tuple[_Gated, float]:
        """The golden images, old and new, that are answered alike in every way; and the largest error of a score."""
        new, preprocessing = self.new, self.new.old.preprocessing
        paths = [self.bundle / one.path for one in new.old.golden]
        old = len(paths)
        paths += [photo.path for photo in new.photos]
        images = np.stack([load_pixels(path.read_bytes(), preprocessing, TRAINING_LIMITS) for path in paths])
        running, reading = session(graph), OpenedGraph(onnx.load_from_string(graph), preprocessing)
        answers: list[Outputs] = []
        errors = []
        # Kernels add up in another order for another number of rows.
        for size in (BATCH, 1):
            expected, opened, found = [], [], []
            for start in range(0, len(images), size):
                rows, same = reading.run(images[start : start + size])
                expected.append(new.heads.answers(rows, new.old.score_names))
                opened.append(same)
                found.append(run_graph(running, images[start : start + size]))
            errors.append(self._require(_whole(expected), _whole(opened)))
            answers.append(_whole(found))
        plain = run_graph(session(graph, optimised=False), images)
        steady = _alike(new.calibration, self._limit(), (*answers, plain))
        # A picture of nothing is golden because it is flagged.
        flagged = new.calibration.fused(answers[0]) > self._limit()
        chosen = [i for i in np.flatnonzero(steady[:old]).tolist() if new.old.golden[i].exact or flagged[i]]
        mine = old + np.flatnonzero(steady[old:])
        number = len(new.old.classes)
        mine = mine[answers[0].probabilities[mine].argmax(1) == number]
        # Those in the middle of their class by what the guard is surprised at.
        order = np.argsort(new.calibration.fused(answers[0].rows(mine)), kind="stable") if len(mine) else mine
        chosen += mine[order[: GOLDEN * 2 : 2]].tolist()
        if not chosen:
            raise QualityError(
                "no golden image gets one answer from the new graph on every runtime; nothing was written"
            )
        kept = [self._copied(paths[i], i, old) for i in chosen]
        return _Gated(tuple(kept), images[chosen], answers[0].rows(np.array(chosen))), max(errors)

    def _require(self, expected: Outputs, found: Outputs) -> float:
        """The largest error of a score. Raises `QualityError` where the graph is not what its definition says."""
        # A calibration photo can be the threshold itself, and may fall on either side of it.
        allowed = allowed_before(self.new.old.parity)
        edge = undecided(self.new.calibration, expected, found, allowed=allowed)
        if not edge.all():
            expected, found = expected.rows(~edge), found.rows(~edge)
        parity = compare(self.new.calibration, expected, found, allowed=allowed)
        require(parity)
        if expected.distances is not None:
            require_distances(expected.distances, found)
        return max(parity.max_score_error.values())

    def _copied(self, path: Path, place: int, old: int) -> Path:
        """A golden image in the scratch folder."""
        mine = f"golden/{self.new.version}-{place - old:02d}{path.suffix.lower()}"
        name = self.new.old.golden[place].path if place < old else mine
        target = self.scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(path, target))

    def _thumbnails(self) -> tuple[str, ...]:
        """The small copies, those of the new photos among them, where the bundle has some."""
        name = self.new.old.thumbnails
        if name is None:
            return ()
        kept = Thumbnails(self.bundle / name)

        def pictures() -> Iterator[tuple[str, bytes]]:
            for sha256 in self.new.bank.sha256:
                data = kept.read(sha256)
                if data is not None:
                    yield sha256, data
            for photo in self.new.photos:
                try:
                    yield photo.sha256, small_jpeg(open_image(photo.path.read_bytes(), TRAINING_LIMITS))
                except ImageError:
                    continue

        try:
            write_thumbnails(self.scratch / name, pictures())
        finally:
            kept.close()
        return (name,)

    def _standalone(self, graph: bytes, images: Pixels) -> Standalone | None:
        """The graph that gives verdicts by itself, where the bundle has one, with the new thresholds inside."""
        if self.new.old.standalone is None:
            return None
        calibration, targets = self.new.calibration, self.new.old.targets
        level = calibration.curve.level(targets.accept, confidence=targets.confidence)
        made = standalone(graph, calibration, accept=level)
        made = with_metadata(made, {**self._metadata(), "oodguard.classes": json.dumps(self.new.classes)})
        measured = measure_standalone(graph, made, calibration, accept=level, images=images)
        (self.scratch / measured.graph).write_bytes(made)
        return measured


def _whole(parts: list[Outputs]) -> Outputs:
    distances = [part.distances for part in parts if part.distances is not None]
    return Outputs(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        distances=np.concatenate(distances) if len(distances) == len(parts) else None,
    )


def _alike(calibration: Calibration, limit: float, answers: tuple[Outputs, ...]) -> npt.NDArray[np.bool_]:
    """Which images get one label and one flag from all of these runs."""
    labels = np.stack([one.probabilities.argmax(1) for one in answers])
    flags = np.stack([calibration.fused(one) > limit for one in answers])
    return np.asarray((labels == labels[0]).all(0) & (flags == flags[0]).all(0))
