"""`export_bundle`: from a run folder to a bundle folder."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from oodguard.export.contract import (
    GRAPH_FILE,
    INPUT_NAME,
    MANIFEST_FILE,
    PROBABILITIES_NAME,
    SCORES_NAME,
    FileRef,
    Golden,
    Manifest,
    Outputs,
    Parity,
    Provenance,
    ScoreEntry,
    TensorSpec,
    load_manifest,
)
from oodguard.export.fuse import FusedGuard
from oodguard.export.graph import run_graph, session, to_onnx
from oodguard.export.parity import TOLERANCE, compare, require
from oodguard.training.contract import GOLDEN_FOLDER, SCORES, file_sha256
from oodguard.training.errors import EnvironmentProblem, FormatError, InputError
from oodguard.training.features import TRAINING_LIMITS
from oodguard.training.preprocess import load_pixels
from oodguard.training.run import Run, finish, load_run


def export_bundle(run_folder: Path, out: Path, *, name: str | None = None, version: str = "1") -> Manifest:
    """Export a run as a bundle: one ONNX graph, a manifest, golden images; gated by parity.

    ```python
    manifest = export_bundle(Path("runs/produce"), Path("bundles/produce"))
    ```

    Raises `QualityError` when the graph does not answer as PyTorch does, `InputError` and `FormatError` for what the
    user can mend. A bundle appears at `out` complete or not at all.
    """
    run = load_run(run_folder)
    name = name or run_folder.resolve().name
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a bundle; choose another --out")
    scratch = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        manifest = _write(run, run_folder, scratch, name=name, version=version)
        load_manifest(scratch)
        finish(scratch, out)
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _write(run: Run, run_folder: Path, scratch: Path, *, name: str, version: str) -> Manifest:
    record = run.record
    golden_files = sorted((run_folder / GOLDEN_FOLDER).glob("*"))
    if not golden_files:
        raise FormatError(f"{run_folder} is incomplete: it has no golden images")
    images = np.stack([load_pixels(p.read_bytes(), record.preprocessing, TRAINING_LIMITS) for p in golden_files])
    probabilities, scores = run.predict(images)
    expected = Outputs(probabilities=probabilities, scores=scores)
    (scratch / GRAPH_FILE).write_bytes(
        to_onnx(
            FusedGuard(run).eval(),
            record.preprocessing,
            metadata={"oodguard.name": name, "oodguard.version": version, "oodguard.run": record.weights_sha256},
        )
    )
    (scratch / GOLDEN_FOLDER).mkdir()
    for path in golden_files:
        shutil.copyfile(path, scratch / GOLDEN_FOLDER / path.name)
    side = record.preprocessing.crop
    files = [scratch / GRAPH_FILE, *sorted((scratch / GOLDEN_FOLDER).iterdir())]
    golden = tuple(
        Golden(
            path=f"{GOLDEN_FOLDER}/{path.name}",
            label=record.classes[int(probabilities[i].argmax())],
            # Settled below, once the manifest that judges exists.
            is_ood=False,
            probabilities=tuple(probabilities[i].tolist()),
            scores=tuple(scores[i].tolist()),
        )
        for i, path in enumerate(golden_files)
    )
    draft = Manifest(
        name=name,
        version=version,
        input=TensorSpec(name=INPUT_NAME, dtype="uint8", shape=("batch", side, side, 3)),
        outputs=(
            TensorSpec(name=PROBABILITIES_NAME, dtype="float32", shape=("batch", len(record.classes))),
            TensorSpec(name=SCORES_NAME, dtype="float32", shape=("batch", len(SCORES))),
        ),
        preprocessing=record.preprocessing,
        classes=record.classes,
        scores=tuple(
            ScoreEntry(
                name=spec.name,
                family=spec.family,
                title=spec.title,
                meaning=spec.meaning,
                curve=record.curves[spec.name],
            )
            for spec in SCORES
        ),
        fusion=record.fusion,
        provenance=Provenance(
            oodguard=record.oodguard,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=record.seed,
            backbone=record.backbone.name,
            weights_source=record.backbone.source,
            weights_sha256=record.weights_sha256,
            data_fingerprint=record.data_fingerprint,
            train_images=record.splits.train,
            calibration_images=record.splits.calibration,
            versions=record.versions,
            options=record.options,
            metrics=record.metrics,
        ),
        parity=Parity(
            images=len(images),
            tolerance=TOLERANCE,
            max_probability_error=0.0,
            max_score_error={},
            labels_identical=True,
            verdicts_identical=True,
        ),
        golden=golden,
        files=tuple(
            FileRef(path=p.relative_to(scratch).as_posix(), bytes=p.stat().st_size, sha256=file_sha256(p))
            for p in files
        ),
    )
    found = run_graph(session((scratch / GRAPH_FILE).read_bytes()), images)
    parity = compare(draft, expected, found)
    require(parity)
    verdicts = draft.judge(expected)
    manifest = draft.model_copy(
        update={
            "parity": parity,
            "golden": tuple(g.model_copy(update={"is_ood": v.is_ood}) for g, v in zip(golden, verdicts, strict=True)),
        }
    )
    (scratch / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return manifest
