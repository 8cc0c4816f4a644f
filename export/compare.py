"""`compare`: two guards, bundles or runs, on the same photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from oodguard.core.calibration import Calibration
from oodguard.core.errors import EnvironmentProblem, FormatError, ImageError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outputs
from oodguard.evaluation.compared import (
    HTML_FILE,
    JSON_FILE,
    RESERVED,
    TEST,
    TRAFFIC,
    Compared,
    ComparedGuard,
    ComparedSet,
    JudgedSet,
    compared,
)
from oodguard.evaluation.paired import Groups
from oodguard.evaluation.report.compared import to_page
from oodguard.export.graph import run_graph, session
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor, batches
from oodguard.training.backbone.sources import backbone_of
from oodguard.training.backbone.tail import tail_features
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo, load_unlabelled
from oodguard.training.photos.split import near_duplicate_groups
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RECORD_FILE
from oodguard.training.run import load_run

BATCH = 16


@dataclass(frozen=True)
class LoadedGuard:
    """A guard that can be asked: a bundle through ONNX Runtime, a run through PyTorch."""

    about: ComparedGuard
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration
    outputs: Callable[[Pixels], Outputs]

    def judge(self, outputs: Sequence[Outputs]) -> JudgedSet:
        """What it says of images that its graph returned this for."""
        whole = Outputs(
            probabilities=np.concatenate([one.probabilities for one in outputs]),
            scores=np.concatenate([one.scores for one in outputs]),
        )
        fused = self.calibration.fused(whole)
        best = whole.probabilities.argmax(1)
        return JudgedSet(
            labels=tuple(self.classes[index] for index in best),
            chances=self.calibration.chances(whole.probabilities)[np.arange(len(best)), best],
            fused=fused,
            flags=fused > self.about.threshold,
        )


def load_guard(folder: Path, *, accept: float | None) -> LoadedGuard:
    """A bundle or a run. Raises `FormatError` for anything else, `InputError` for an acceptance it cannot promise."""
    if (folder / MANIFEST_FILE).is_file():
        manifest = load_manifest(folder)
        graph = (folder / manifest.graph).read_bytes()
        running = session(graph)
        return LoadedGuard(
            about=_about(
                folder, MANIFEST_FILE, manifest.calibration, manifest.targets, accept, name=manifest.name,
                version=manifest.version, precision=manifest.precision, megabytes=len(graph) / 1e6,
            ),
            classes=manifest.classes,
            preprocessing=manifest.preprocessing,
            calibration=manifest.calibration,
            outputs=lambda images: run_graph(running, images),
        )  # fmt: skip
    if not (folder / RECORD_FILE).is_file():
        raise FormatError(f"{folder} is neither a bundle nor a run: it has no {MANIFEST_FILE} and no {RECORD_FILE}")
    run = load_run(folder)
    record = run.record

    def outputs(images: Pixels) -> Outputs:
        probabilities, scores = run.predict(images)
        return Outputs(probabilities=probabilities, scores=scores)

    return LoadedGuard(
        about=_about(
            folder, RECORD_FILE, record.calibration, record.targets, accept,
            name=record.name or folder.resolve().name, version=str(record.version), precision="fp32", megabytes=None,
        ),
        classes=record.classes,
        preprocessing=record.preprocessing,
        calibration=record.calibration,
        outputs=outputs,
    )  # fmt: skip


def _about(
    folder: Path,
    file: str,
    calibration: Calibration,
    targets: Targets,
    accept: float | None,
    *,
    name: str,
    version: str,
    precision: str,
    megabytes: float | None,
) -> ComparedGuard:
    try:
        asked = targets.but(accept=accept)
        threshold = calibration.thresholds(asked.accept, confidence=asked.confidence).fused
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from None
    return ComparedGuard(
        kind="bundle" if file == MANIFEST_FILE else "run",
        folder=str(folder),
        name=name,
        version=version,
        sha256=file_sha256(folder / file),
        precision=precision,
        accept=asked.accept,
        threshold=threshold,
        megabytes=megabytes,
    )


def compare(
    old: Path,
    new: Path,
    *,
    test: Path,
    ood: Mapping[str, Path] | None = None,
    traffic: Path | None = None,
    accept: float | None = None,
    cache: Path,
    out: Path | None = None,
    report: Reporter | None = None,
) -> Compared:
    """Compare two guards on the same photos, and write `comparison.json` and `comparison.html` into `out`.

    ```python
    found = compare(Path("bundles/photos"), Path("bundles/photos-2"), test=Path("photos/test"), cache=Path(".cache"))
    ```

    test: class folders, or folders that hold them in `test/`. ood: OOD sets by name. traffic: photos without labels, as
    they come. accept: the target acceptance of both; None: each one's own.

    Raises `InputError` and `FormatError` for what the user can mend, and `EnvironmentProblem` where `out` cannot be
    written.
    """
    report = report or Silent()
    folders = {TEST: test / "test" if (test / "test").is_dir() else test, **dict(ood or {})}
    if taken := sorted(set(ood or {}) & set(RESERVED)):
        raise InputError(f"--ood: {taken[0]!r} cannot be the name of a set")
    if traffic is not None:
        folders[TRAFFIC] = traffic
    guards = [load_guard(folder, accept=accept) for folder in (old, new)]
    found = {name: load_unlabelled(folder) for name, folder in folders.items()}
    if not {photo.label for photo in found[TEST]} & {label for guard in guards for label in guard.classes}:
        raise InputError(f"no folder under {folders[TEST]} is named after a class of these guards")
    unreadable: list[str] = []
    judged = {name: _judged(name, guards, photos, unreadable, report) for name, photos in found.items()}
    kept = {name: photos for name, (photos, _) in judged.items()}
    groups, ungrouped = _groups(kept, cache, report)
    result = compared(
        guards[0].about,
        guards[1].about,
        classes=(frozenset(guards[0].classes), frozenset(guards[1].classes)),
        sets={
            name: ComparedSet(photos=photos, before=sides[0], after=sides[1], groups=groups[name])
            for name, (photos, sides) in judged.items()
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        ungrouped=ungrouped,
        unreadable=unreadable,
    )
    if out is not None:
        _write(out, result)
    return result


def _judged(
    name: str, guards: Sequence[LoadedGuard], photos: Sequence[Photo], unreadable: list[str], report: Reporter
) -> tuple[tuple[Photo, ...], list[JudgedSet]]:
    """The photos of a set that can be read, and what each guard says of them."""
    kept: list[Photo] = []
    outputs: list[list[Outputs]] = [[] for _ in guards]
    for rows in batches(len(photos), BATCH):
        pixels: list[list[Pixels]] = [[] for _ in guards]
        for photo in photos[rows]:
            try:
                data = photo.path.read_bytes()
                both = list(_pixels(data, guards))
            except (ImageError, OSError):
                unreadable.append(str(photo.path))
                continue
            kept.append(photo)
            for side, one in zip(pixels, both, strict=True):
                side.append(one)
        if pixels[0]:
            for guard, side, parts in zip(guards, pixels, outputs, strict=True):
                parts.append(guard.outputs(np.stack(side)))
        report.progress(f"judging {name}", min(rows.stop, len(photos)), len(photos))
    if not kept:
        raise InputError(f"no image of {name} can be read")
    return tuple(kept), [guard.judge(parts) for guard, parts in zip(guards, outputs, strict=True)]


def _pixels(data: bytes, guards: Sequence[LoadedGuard]) -> Iterator[Pixels]:
    first = load_pixels(data, guards[0].preprocessing, TRAINING_LIMITS)
    for guard in guards:
        same = guard.preprocessing == guards[0].preprocessing
        yield first if same else load_pixels(data, guard.preprocessing, TRAINING_LIMITS)


def _groups(sets: Mapping[str, tuple[Photo, ...]], cache: Path, report: Reporter) -> tuple[dict[str, Groups], str]:
    """The near-duplicate group of every photo, by the frozen default backbone, as training finds them.

    Where its weights cannot be had, each photo is a group, and the second value says why.
    """
    photos = tuple(photo for found in sets.values() for photo in found)
    # A class, or a folder of another set: near-duplicates are what is closer than photos of different things are.
    things = [f"{name}\0{photo.label}" for name, found in sets.items() for photo in found]
    reason = ""
    groups = np.arange(len(photos))
    try:
        backbone = backbone_of(TrainOptions(data=Path(), cache=cache, fine_tune=False))
        extractor = Extractor(backbone, cache=cache)
        progress: Callable[[int, int], None] = lambda done, total: report.progress("near-duplicates", done, total)  # noqa: E731
        features = tail_features(backbone.tail, extractor.extract(photos, progress=progress)[0]).numpy()
    except EnvironmentProblem as error:
        reason = str(error)
    else:
        _, numbers = np.unique(things, return_inverse=True)
        groups = near_duplicate_groups(features, numbers)
    ends = np.cumsum([len(found) for found in sets.values()])[:-1]
    return dict(zip(sets, np.split(groups, ends), strict=True)), reason


def _write(out: Path, found: Compared) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / JSON_FILE).write_text(found.model_dump_json(indent=1), encoding="utf-8")
        (out / HTML_FILE).write_text(to_page(found), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error}); choose another --out") from None
