"""One inference of the Open Inference Protocol, by HTTP or gRPC: from a parsed message to the arrays of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oodguard.core.errors import ImageError
from oodguard.core.manifest import Manifest
from oodguard.core.problems import Problem, problem
from oodguard.core.quality import TRAITS
from oodguard.server import open_inference as oip
from oodguard.server.batcher import MeasuredImage
from oodguard.server.judging import Judge, Judgement, ParsedImage
from oodguard.server.model import ServedModel


@dataclass(frozen=True)
class Inference:
    """What a request asks. `tolerant`: it asks for the output `error`, so a bad image costs the others nothing.

    source: what its header names; its own parameter `source` wins.
    """

    message: oip.InferRequest
    images: Sequence[ParsedImage]
    tolerant: bool
    source: str | None = None

    async def judged(
        self, judge: Judge, model: ServedModel, *, deadline: float, read: float, caller: str = ""
    ) -> dict[str, oip.Array] | Problem:
        """The outputs by name, or why the request as a whole is refused. `deadline`, `read` and `caller` as for
        `Judge.judge`.

        Raises `RequestError` for a target that is no number or a `source` that is no text, and as `Judge.judge` does.
        """
        found = await judge.judge(
            self.images,
            model,
            deadline=deadline,
            asked=oip.asked_of(self.message),
            top_k=1,
            source=oip.source_of(self.message) or self.source,
            explain=oip.explains(self.message),
            read=read,
            all_or_none=not self.tolerant,
            caller=caller,
        )
        errors = [(index, one) for index, one in enumerate(found.outcomes) if isinstance(one, ImageError)]
        if errors and (not self.tolerant or len(errors) == len(self.images)):
            index, error = errors[0]
            return problem(error.code, str(error), index=index)
        arrays = arrays_of(found, model.manifest)
        return arrays | {oip.EXPLANATION: _explanations(found)} if oip.explains(self.message) else arrays


def arrays_of(found: Judgement, manifest: Manifest) -> dict[str, oip.Array]:
    """The outputs `[N, ...]`; the row of an image that failed is empty text and numbers that are no numbers.

    label_set: for each class, whether the label set holds it. quality: the percentiles, in the order of
    `TRAITS`; quality_reason: empty where the picture is fit.
    """
    count = len(found.outcomes)
    labels, decisions, errors, reasons = ([""] * count for _ in range(4))
    is_ood = np.ones(count, dtype=bool)
    fused, threshold = (np.full(count, np.nan, dtype=np.float32) for _ in range(2))
    probabilities = np.full((count, len(manifest.classes)), np.nan, dtype=np.float32)
    scores = np.full((count, len(manifest.scores)), np.nan, dtype=np.float32)
    sets = np.zeros((count, len(manifest.classes)), dtype=bool)
    quality = np.full((count, len(TRAITS)), np.nan, dtype=np.float32)
    for row, (outcome, (image, _)) in enumerate(zip(found.outcomes, found.images, strict=True)):
        if isinstance(outcome, ImageError):
            errors[row] = f"{outcome.code}: {outcome}"
            continue
        labels[row], decisions[row], is_ood[row] = outcome.label, outcome.decision, outcome.is_ood
        fused[row], threshold[row] = outcome.ood_score, outcome.threshold
        assert isinstance(image, MeasuredImage)
        probabilities[row], scores[row] = image.measured.probabilities[image.row], image.measured.scores[image.row]
        if outcome.quality is not None:
            quality[row] = [getattr(outcome.quality, trait) for trait in TRAITS]
            reasons[row] = outcome.quality.reason or ""
        sets[row, image.measured.ranked[image.row][: len(outcome.labels or ())]] = True
    return {
        "label": oip.texts(labels),
        "decision": oip.texts(decisions),
        "is_ood": is_ood,
        "ood_score": fused,
        "threshold": threshold,
        "probabilities": probabilities,
        "scores": scores,
        **({"label_set": sets} if manifest.has_label_sets else {}),
        **({"quality": quality, "quality_reason": oip.texts(reasons)} if manifest.calibration.quality else {}),
        "error": oip.texts(errors),
    }


def _explanations(found: Judgement) -> oip.Array:
    """Each image's explanation as JSON; empty for an image that failed."""
    explained = [None if isinstance(one, ImageError) else one.explanation for one in found.outcomes]
    return oip.texts(["" if one is None else one.model_dump_json() for one in explained])
