"""How a bundle's golden images must be answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oodguard.core.errors import ImageError, QualityError
from oodguard.core.golden import Golden
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Engine
from oodguard.server.errors import EngineError


async def defect_of(bundle: Path, manifest: Manifest, engine: Engine, *, max_batch: int) -> str | None:
    """Answer the golden images of a bundle and compare with its manifest: what differs, or None."""
    try:
        images = np.stack(
            [load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden]
        )
        cut = (images[start : start + max_batch] for start in range(0, len(images), max_batch))
        outputs = join([await engine.infer(batch) for batch in cut])
    except (ImageError, EngineError, OSError) as error:
        return f"the golden images could not be answered ({error})"
    return broken_promise(manifest, manifest.golden, outputs)


def broken_promise(manifest: Manifest, golden: Sequence[Golden], outputs: Outputs) -> str | None:
    """What differs between the answers for some `golden` images and the manifest's, or None."""
    try:
        verdicts = manifest.judge(outputs)
    except QualityError as error:
        return f"the golden images could not be answered ({error})"
    wrong = [
        g.path
        for g, v in zip(golden, verdicts, strict=True)
        if g.is_ood != v.is_ood or (g.exact and g.label != v.label)
    ]
    if wrong:
        return f"the verdict on {wrong[0]} is not the one in the manifest"
    exact = np.array([g.exact for g in golden])
    errors = manifest.calibration.score_errors([g.scores for g in golden], outputs.scores)[exact]
    for name, worst in zip(manifest.calibration.names, errors.max(axis=0, initial=0.0).tolist(), strict=True):
        if worst > (allowed := manifest.parity.allowed(name)):
            return f"scores of the golden images differ from the manifest's by {worst:.1e} (allowed {allowed:g})"
    return None


def join(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches as one."""
    return Outputs(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
    )
