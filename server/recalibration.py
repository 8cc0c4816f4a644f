"""`recalibrate`: new thresholds for a bundle from photos that somebody vouches for, without training."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import Field

import oodguard
from oodguard.core.binomial import acceptance_interval, share_interval
from oodguard.core.calibration import MIN_CALIBRATION, Calibration
from oodguard.core.errors import EnvironmentProblem, InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.frozen import Frozen
from oodguard.core.golden import Golden, judged
from oodguard.core.images import OWN_LIMITS
from oodguard.core.lineage import VersionRef, next_version
from oodguard.core.manifest import DEFAULT_SOURCE, MANIFEST_FILE, MAX_SOURCES, Manifest, load_manifest
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.provenance import NAME, Recalibration
from oodguard.core.quality import QualityScale
from oodguard.core.verdict import Outputs
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.engines.registry import DEFAULT, LOCAL, Device, LocalEngineName, one_of
from oodguard.server.golden import defect_of
from oodguard.server.trusted import TrustedPhotos, judged_photos, photos_of
from oodguard.server.tuning import TUNING_FILE, plan_for

Progress = Callable[[int, int], None]


class RecalibrateOptions(Frozen):
    """What `oodguard recalibrate` takes.

    ```python
    RecalibrateOptions(bundle=Path("bundles/photos"), images=("trusted",), source="cam3")
    ```
    """

    bundle: Path = Field(description="Bundle folder written by export.")
    images: tuple[str, ...] = Field(
        min_length=1,
        description="Folder, list of paths (.txt, one per line), zip or tar of photos that are known to be in "
        "distribution; repeat for more. Photos in folders named after classes are labelled.",
    )
    source: str | None = Field(
        None,
        description="Name of what took the photos, such as a camera: requests that name it get these thresholds, all "
        "others keep theirs; default: the thresholds of requests that name no source.",
    )
    out: Path | None = Field(
        None, description="Bundle folder to write; default: the bundle itself, which a running server then reloads."
    )
    model_version: str | None = Field(None, description="Version of the new bundle; default: the next whole number.")
    dry_run: bool = Field(False, description="Print what would change, and write nothing.")
    engine: LocalEngineName | None = Field(
        None, description=f"What runs the graph: {one_of(LOCAL)}; default: the tuning record's, or {DEFAULT}."
    )
    device: Device = Field("auto", description="Where the graph runs; auto: CUDA if present.")
    tuning: Path | None = Field(
        None, description="Record of `oodguard tune`; default: tuning.json in the bundle, if it fits this machine."
    )
    sessions: int | None = Field(
        None, ge=1, le=64, description="Inferences that run at once; default: the tuning record's, or one per core."
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="Threads of one inference; default: the tuning record's, or 1."
    )
    max_batch: int | None = Field(
        None, ge=1, le=1024, description="Maximum images in one inference; default: the tuning record's, or 8."
    )
    max_image_bytes: int = Field(OWN_LIMITS.max_bytes, ge=1, description="Maximum bytes of an encoded image.")
    max_pixels: int = Field(OWN_LIMITS.max_pixels, ge=1, description="Maximum pixels of an image.")
    max_decode_work: int = Field(
        OWN_LIMITS.max_work, ge=1, description="Maximum work of decoding an image: its pixels times its scans."
    )

    @property
    def limits(self) -> ImageLimits:
        """The limits of one image."""
        return ImageLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_pixels,
            max_work=self.max_decode_work,
            # Somebody vouches for these photos.
            formats=FORMAT_NAMES,
        )


@dataclass(frozen=True)
class ThresholdChange:
    """A threshold before and after, and the share of the photos above the old one."""

    name: str
    before: float
    after: float
    flagged: float


@dataclass(frozen=True)
class Recalibrated:
    """The new manifest, and what changed.

    accepted: the share of the photos that the old thresholds accepted, with its 90 % interval. kept: what share of
    images like these the new threshold accepts, in 90 % of draws of so many photos. confident: whether so many can
    promise the target with confidence 0.9. flagged: golden images that are out of distribution by the new threshold and
    were not. dropped: golden images whose verdict another runtime might not repeat. outdated:
    the standalone graph is left out, as it has the old thresholds inside.
    """

    manifest: Manifest
    photos: TrustedPhotos
    calibration: Calibration
    accepted: float
    accepted_interval: tuple[float, float]
    kept: tuple[float, float]
    confident: bool
    changes: tuple[ThresholdChange, ...]
    flagged: tuple[str, ...]
    dropped: tuple[str, ...]
    outdated: bool
    out: Path


def recalibrate(options: RecalibrateOptions, *, progress: Progress) -> Recalibrated:
    """Set the thresholds of a bundle anew and write it as a new version, whole or not at all.

    ```python
    recalibrate(RecalibrateOptions(bundle=Path("bundles/photos"), images=("trusted",)), progress=bar)
    ```

    Raises `InputError` and `FormatError` for what the user can mend, `EnvironmentProblem` for what this machine lacks
    or refuses, and `QualityError` where the engine does not answer the golden images as it must.
    """
    manifest = load_manifest(options.bundle)
    parent = file_sha256(options.bundle / MANIFEST_FILE)
    version = _version(options, manifest)
    _require_source(options, manifest)
    out = options.out or options.bundle
    if options.out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists; choose another --out, or leave it out to change {options.bundle} itself")
    base = Path.cwd()
    items = photos_of(options.images, base=base, max_bytes=options.max_image_bytes)
    source = options.source if options.source in manifest.sources else None
    plan = plan_for(options, manifest)
    judge = BatchJudge.open(options.bundle, manifest, plan, limits=options.limits, device=options.device)
    try:
        photos = judged_photos(
            judge, items, base=base, max_bytes=options.max_image_bytes, source=source, progress=progress
        )
        before = manifest.calibration_of(source)
        after = _fitted(before, photos, manifest, options)
        golden = manifest.golden
        if options.source is None:
            golden = renewed(manifest, after)
        new = _manifest(manifest, after, photos, options, version=version, golden=golden, parent=parent)
        work = defect_of(options.bundle, new, judge.engine, max_batch=plan.max_batch)
        defect = judge.submit(work).result()
        if defect:
            raise QualityError(f"the recalibrated bundle does not answer as it must ({defect}); nothing was written")
    finally:
        judge.close()
    if not options.dry_run:
        _write(options.bundle, new, out, parent=parent)
    return _report(manifest, new, before, after, photos, out)


def _version(options: RecalibrateOptions, manifest: Manifest) -> str:
    if options.model_version is not None:
        if not re.fullmatch(NAME, options.model_version):
            raise InputError("--model-version takes letters, digits, dots, hyphens and underscores, at most 64")
        if options.model_version == manifest.version:
            raise InputError(f"{options.bundle} is version {manifest.version} already; choose another --model-version")
        return options.model_version
    return next_version([manifest.version])


def _require_source(options: RecalibrateOptions, manifest: Manifest) -> None:
    name = options.source
    if name is None:
        return
    if not re.fullmatch(NAME, name) or name == DEFAULT_SOURCE:
        raise InputError(
            "--source takes letters, digits, dots, hyphens and underscores, at most 64, and not the name "
            f"{DEFAULT_SOURCE}; got {name[:80]!r}"
        )
    if name not in manifest.sources and len(manifest.sources) == MAX_SOURCES:
        raise InputError(f"{options.bundle} has {MAX_SOURCES} sources, which is as many as there may be")


def _fitted(before: Calibration, photos: TrustedPhotos, manifest: Manifest, options: RecalibrateOptions) -> Calibration:
    """The new calibration, which must promise what the bundle's targets ask."""
    if len(photos) < MIN_CALIBRATION:
        raise InputError(
            f"{len(photos)} different photos are too few for thresholds; give at least {MIN_CALIBRATION}, better 100"
        )
    if photos.sampled == len(photos) and options.source is None:
        raise InputError(
            f"all {len(photos)} photos are samples of flagged images, and thresholds from these alone would let most "
            "others in; add photos as they came with another --images, or name the --source of all these"
        )
    try:
        after = before.recalibrated(photos.outputs, photos.targets, quality=QualityScale.fit(photos.traits))
        after.thresholds(manifest.targets.accept, confidence=manifest.targets.confidence)
    except ValueError as error:
        raise InputError(f"{error}; give more photos") from None
    return after


def _manifest(
    old: Manifest,
    calibration: Calibration,
    photos: TrustedPhotos,
    options: RecalibrateOptions,
    *,
    version: str,
    golden: tuple[Golden, ...],
    parent: str,
) -> Manifest:
    source = options.source
    done = Recalibration(
        source=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        oodguard=oodguard.__version__,
        images=len(photos),
        labelled=photos.targets is not None,
        from_version=old.version,
        from_sha256=parent,
    )
    kept: set[str] = {g.path for g in golden} | {ref.path for ref in old.files} - {g.path for g in old.golden}
    changed: dict[str, object]
    if source is not None:
        changed = {"sources": {**old.sources, source: calibration}}
    else:
        # The standalone graph has the old thresholds inside.
        changed = {"calibration": calibration, "standalone": None}
        kept -= set() if old.standalone is None else {old.standalone.graph}
    return Manifest.model_validate(
        {
            **dict(old),
            **changed,
            "version": version,
            "follows": VersionRef(name=old.name, version=old.version, created=old.provenance.created, sha256=parent),
            "golden": golden,
            "files": tuple(ref for ref in old.files if ref.path in kept),
            "recalibrations": (*(one for one in old.recalibrations if one.source != source), done),
        }
    )


def renewed(manifest: Manifest, calibration: Calibration) -> tuple[Golden, ...]:
    """The golden images with the verdicts of a new calibration, from what the graph returned for them at export.

    A golden image must be answered alike by every runtime. One whose verdict may change within the manifest's
    tolerance, and that has come nearer to its threshold, is left out; the farthest one always stays.
    """
    allowed = np.array([manifest.parity.allowed(name) for name in calibration.names])
    outputs = Outputs(
        probabilities=np.array([g.probabilities for g in manifest.golden], dtype=np.float32),
        scores=np.array([g.scores for g in manifest.golden], dtype=np.float32),
    )
    ranges = np.array([curve.values[-1] - curve.values[0] for curve in calibration.curves.values()])
    reach = allowed * np.maximum(np.abs(outputs.scores), ranges)
    # No score lowers the fused score, so these are the least and the most that a runtime may come to.
    low, high = (
        calibration.fused(Outputs(probabilities=outputs.probabilities, scores=scores.astype(np.float32)))
        for scores in (outputs.scores - reach, outputs.scores + reach)
    )
    targets = manifest.targets
    old = manifest.calibration.thresholds(targets.accept, confidence=targets.confidence).fused
    new = calibration.thresholds(targets.accept, confidence=targets.confidence).fused
    fused = calibration.fused(outputs)
    margins = np.abs(fused - new)
    steady = ((low > new) == (high > new)) | (
        ((fused > new) == [g.is_ood for g in manifest.golden])
        & (margins >= np.abs(manifest.calibration.fused(outputs) - old))
    )
    exact = np.array([g.exact for g in manifest.golden])
    steady[np.where(exact, margins, -1.0).argmax()] = True
    kept = [
        golden
        for golden, score, keep in zip(manifest.golden, fused, steady, strict=True)
        # A picture of nothing says nothing once it is not flagged.
        if keep and (golden.exact or score > new)
    ]
    return judged(kept, calibration, targets)


def _write(bundle: Path, manifest: Manifest, out: Path, *, parent: str) -> None:
    """Put the new version in its place: a manifest in the place of the old one, or a whole folder."""
    text = manifest.model_dump_json(indent=1)
    try:
        if out == bundle:
            # The graph stays, so one rename swaps the versions; a server reads the one or the other.
            unfinished = bundle / f".{MANIFEST_FILE}.partial"
            unfinished.write_text(text, encoding="utf-8")
            if file_sha256(bundle / MANIFEST_FILE) != parent:
                unfinished.unlink()
                raise InputError(f"{bundle} was changed meanwhile; give the command again")
            unfinished.replace(bundle / MANIFEST_FILE)
            return
        scratch = out.with_name(out.name + ".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            for name in (*(ref.path for ref in manifest.files), TUNING_FILE):
                if (bundle / name).is_file():
                    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(bundle / name, scratch / name)
            (scratch / MANIFEST_FILE).write_text(text, encoding="utf-8")
            load_manifest(scratch)
            scratch.replace(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error}); choose another --out") from None


def _report(
    old: Manifest, new: Manifest, before: Calibration, after: Calibration, photos: TrustedPhotos, out: Path
) -> Recalibrated:
    targets, count = old.targets, len(photos)
    was = before.thresholds(targets.accept, confidence=targets.confidence)
    now = after.thresholds(targets.accept, confidence=targets.confidence)
    scores = before.columns(photos.outputs.scores)
    changes = [ThresholdChange("fused", was.fused, now.fused, 1.0 - photos.accepted / count)]
    for (name, then), (_, later) in zip(was.scores, now.scores, strict=True):
        changes.append(ThresholdChange(name, then, later, float((scores[name] > then).mean())))
    rank = int((np.sort(after.fused(photos.outputs)) <= now.fused).sum())
    expected = {g.path: g.is_ood for g in old.golden}
    return Recalibrated(
        manifest=new,
        photos=photos,
        calibration=after,
        accepted=photos.accepted / count,
        accepted_interval=share_interval(photos.accepted, count),
        kept=acceptance_interval(rank, count),
        confident=_promises(after, targets.accept),
        changes=tuple(changes),
        flagged=tuple(g.path for g in new.golden if g.is_ood and not expected[g.path]),
        dropped=tuple(path for path in expected if path not in {g.path for g in new.golden}),
        outdated=new.standalone != old.standalone,
        out=out,
    )


def _promises(calibration: Calibration, accept: float) -> bool:
    try:
        return math.isfinite(calibration.thresholds(accept, confidence=0.9).fused)
    except ValueError:
        return False
