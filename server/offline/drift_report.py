"""`drift`: whether images that were judged are still like the calibration photos, from results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oodguard.core.calibration import Calibration
from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.core.frozen import Frozen
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest
from oodguard.core.resemblance import (
    EstimatedAccuracy,
    FlaggedShare,
    PercentileTest,
    drift_sentence,
    drifted,
)
from oodguard.server.offline.judged import JudgedImages, joined_images, read_judged

NO_WEEK = "no date"


class DriftPart(Frozen):
    """What some of the images say; accuracy: None where no image passes, or the bundle's photos had no labels."""

    flagged: FlaggedShare
    accuracy: EstimatedAccuracy | None


class DriftReport(Frozen):
    """Everything that `oodguard drift` found; the percentiles are those of all images.

    by_class: by the label that images are given. by_week: ISO weeks in order; empty where nothing says when.
    """

    name: str
    version: str
    images: int
    failed: int
    whole: DriftPart
    percentiles: PercentileTest
    by_class: dict[str, DriftPart]
    by_week: dict[str, DriftPart]

    @property
    def drifted(self) -> bool:
        """Whether chance does not explain the images: by the share flagged or by the percentiles."""
        return drifted(self.whole.flagged, self.percentiles)

    @property
    def sentence(self) -> str:
        """The share flagged, what was expected, and what follows."""
        return drift_sentence(self.whole.flagged, self.percentiles)


def drift(
    results: Sequence[Path], *, bundle: Path, times: str | None = None, calibration: str | None = None
) -> DriftReport:
    """Compare results of `oodguard score` with the bundle that made them.

    ```python
    drift([Path("results.parquet")], bundle=Path("bundles/photos")).sentence
    ```

    times: the column that says when an image was taken; None: dates in the paths. calibration: the source of the bundle
    that judged; None: what the results say, else the bundle's own.

    Raises `InputError` where a result is not of this bundle, or at several targets; `FormatError` as `load_manifest`.
    """
    manifest = load_manifest(bundle)
    sha256 = file_sha256(bundle / MANIFEST_FILE)
    parts = [read_judged(path, times=times) for path in results]
    for path, part in zip(results, parts, strict=True):
        _require_same_bundle(path, part, manifest, bundle, sha256)
    said = {part.about.get("oodguard.calibration") for part in parts if part.about}
    if len(said) > 1:
        raise InputError("the results were judged by the calibrations of several sources; give each source its own")
    if calibration is None and said:
        calibration = said.pop()
    try:
        used = manifest.calibration_of(calibration)
    except ValueError as error:
        raise InputError(str(error)) from None
    judged = joined_images(parts)
    if len(judged.thresholds) > 1:
        raise InputError("the results were judged at several thresholds; give those of one target acceptance")
    threshold = next(iter(judged.thresholds))
    if not np.isclose(np.asarray(used.curve.values), threshold, rtol=1e-6).any():
        raise InputError(f"{results[0]} was judged at a threshold that {bundle} does not have; give its own bundle")
    return report_of(judged, used, manifest, threshold=threshold)


def report_of(judged: JudgedImages, used: Calibration, manifest: Manifest, *, threshold: float) -> DriftReport:
    """The report on images that were judged by a calibration at a threshold."""

    def part(chosen: npt.NDArray[np.bool_]) -> DriftPart:
        return DriftPart(
            flagged=FlaggedShare.of(judged.flags[chosen], used.curve, threshold),
            accuracy=accuracy_of(judged.chances[chosen], judged.flags[chosen], used, threshold),
        )

    weeks = sorted(set(judged.weeks.tolist()) - {""})
    by_week = {week: part(judged.weeks == week) for week in weeks}
    if weeks and (judged.weeks == "").any():
        by_week[NO_WEEK] = part(judged.weeks == "")
    given = set(judged.labels.tolist())
    return DriftReport(
        name=manifest.name,
        version=manifest.version,
        images=len(judged),
        failed=judged.failed,
        whole=part(np.ones(len(judged), dtype=np.bool_)),
        percentiles=PercentileTest.of(judged.fused, used.curve),
        by_class={label: part(judged.labels == label) for label in manifest.classes if label in given},
        by_week=by_week,
    )


def accuracy_of(
    chances: npt.NDArray[np.float64], flags: npt.NDArray[np.bool_], used: Calibration, threshold: float
) -> EstimatedAccuracy | None:
    """The accuracy of the images that pass, where the calibration knows what a chance is."""
    if used.answering is None:
        return None
    return EstimatedAccuracy.of(chances[~flags], used.answering.photos, threshold)


def _require_same_bundle(path: Path, part: JudgedImages, manifest: Manifest, bundle: Path, sha256: str) -> None:
    """A table without metadata may be of any bundle; its threshold says more."""
    made_by = part.about.get("oodguard.bundle.sha256")
    if made_by is not None and made_by != sha256:
        name, version = (part.about.get(f"oodguard.bundle.{key}", "?") for key in ("name", "version"))
        raise InputError(
            f"{path} was made with {name} version {version}, and {bundle} is another bundle, {manifest.name} version "
            f"{manifest.version}; give the one that made it"
        )
