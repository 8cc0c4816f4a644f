"""`Calibration`: what turns a graph's raw numbers into verdicts. NumPy only.

Everything here is fitted on held-out in-distribution (ID) images alone, and all of it can be moved at serving time
without touching the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from oodguard.core.answering import Answering, LabelledPhotos
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.errors import QualityError
from oodguard.core.frozen import Frozen
from oodguard.core.fusion import Fusion, LeftOutCheck
from oodguard.core.quality import QualityScale, Traits
from oodguard.core.scores import Family, ScoreName
from oodguard.core.targets import DEFAULT_ACCEPT, DEFAULT_COVERAGE, DEFAULT_MAX_ERROR
from oodguard.core.verdict import (
    DEFAULT_TOP_K,
    ClassProbability,
    Decision,
    Measured,
    Outputs,
    ScoreVerdict,
    Thresholds,
    Verdict,
)

MIN_CALIBRATION = 20
# What rounding, of float16 too, may put a probability beyond 0 or 1.
RANGE_SLACK = 2e-3


class Calibration(Frozen):
    """The quantile curve of every score, in graph order, the fused score that joins them, and what answers need.

    ```python
    calibration = Calibration.fit({"energy": energy, "knn": knn})   # [n] each, on n held-out ID images
    verdicts = calibration.judge(outputs, classes=classes, accept=0.99)
    ```

    answering: from photos with labels. Without it the fused score is that of `fusion`, probabilities leave as the graph
    gives them, and there are no label sets.

    own: curves of the scores on other photos than the fused score is made with (`recalibrated`): each score's own
    threshold and percentile are from them. Empty: from `curves`.

    lipschitz: how much a score can change per unit of distance between features, for scores where that is known
    exactly (the certified head's energy; GReg, Eq. 4).

    quality: what pictures the training photos are. Without it answers do not say whether a picture is fit.
    """

    curves: dict[ScoreName, QuantileCurve] = Field(min_length=1)
    fusion: Fusion
    answering: Answering | None = None
    own: dict[ScoreName, QuantileCurve] = Field(default_factory=dict)
    lipschitz: dict[ScoreName, float] = Field(default_factory=dict)
    quality: QualityScale | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Calibration:
        used = set(self.fusion.scores) | set(self.lipschitz)
        if missing := sorted(used - set(self.curves)):
            raise ValueError(f"{', '.join(missing)} has no quantile curve")
        if self.own and list(self.own) != list(self.curves):
            raise ValueError("the own curves are not of these scores, in this order")
        if any(value <= 0 for value in self.lipschitz.values()):
            raise ValueError("a Lipschitz constant must be positive")
        return self

    @classmethod
    def fit(
        cls,
        scores: Mapping[ScoreName, Scores],
        *,
        check: LeftOutCheck | None = None,
        lipschitz: Mapping[ScoreName, float] | None = None,
    ) -> Calibration:
        """Calibrate on the scores `{name: [n]}` of n held-out ID images, in graph order.

        check: what left-out classes say of the scores; it chooses the fused score's members and shares.
        """
        curves = {name: QuantileCurve.fit(values) for name, values in scores.items()}
        return cls(curves=curves, fusion=Fusion.fit(curves, scores, check=check), lipschitz=dict(lipschitz or {}))

    def refit(self, scores: Mapping[ScoreName, Scores]) -> Calibration:
        """The same members and shares, with curves of other held-out ID scores: a lower precision's, or new photos'.

        Surprises are on the scale of their own curves, so what is answered moves with them.
        """
        curves = {name: QuantileCurve.fit(scores[name]) for name in self.curves}
        whole = self.fusion
        share = whole.share(Family.CONFIDENCE)
        fusion = Fusion.fit(curves, scores, members=whole.scores, share=share, check=whole.check)
        return self.model_copy(update={"curves": curves, "fusion": fusion})

    def answered(self, photos: LabelledPhotos, *, keep_probabilities: bool = False) -> Calibration:
        """The same curves, and what answers need from labelled ID photos that trained nothing."""
        return self.model_copy(update={"answering": Answering.fit(photos, keep_probabilities=keep_probabilities)})

    def recalibrated(
        self,
        outputs: Outputs,
        targets: npt.NDArray[np.int64] | None = None,
        *,
        quality: QualityScale | None = None,
    ) -> Calibration:
        """The same fused score with the thresholds of n other ID photos, from what the graph returned for them.

        targets: their true classes, `[n]`, where somebody knows them; label sets and decisions then follow these photos
        too. The photos change nothing that the fused score is made from, so a new photo's is exchangeable with theirs
        and its threshold exact for any n; with score curves fitted to the same photos, it accepts too few where n is
        small. quality: that of these photos; None: it stays. Raises `ValueError` for fewer than `MIN_CALIBRATION`
        photos, `QualityError` as `measure` does.
        """
        if len(outputs.scores) < MIN_CALIBRATION:
            raise ValueError(f"a calibration needs at least {MIN_CALIBRATION} photos; got {len(outputs.scores)}")
        fused = np.asarray(self.measure(outputs).fused)
        curve = QuantileCurve.fit(fused)
        scores = self.columns(outputs.scores)
        update: dict[str, object] = {
            "own": {name: QuantileCurve.fit(scores[name]) for name in self.curves},
            "quality": quality or self.quality,
        }
        if self.answering is None:
            return self.model_copy(update={**update, "fusion": self.fusion.model_copy(update={"curve": curve})})
        photos = None
        if targets is not None:
            photos = LabelledPhotos(
                surprise=self.surprise(scores),
                probabilities=outputs.probabilities,
                targets=np.asarray(targets, dtype=np.int64),
                groups=np.arange(len(targets)),
            )
        return self.model_copy(update={**update, "answering": self.answering.renewed(curve, photos)})

    def surprise(self, scores: Mapping[ScoreName, Scores]) -> Scores:
        """How surprising images are on ID data by all scores together, `[B]` in nats, whatever class they are given."""
        return self.fusion.curve.surprise(self.fusion.score(self.curves, scores))

    @property
    def curve(self) -> QuantileCurve:
        """The curve of the fused score."""
        return self.fusion.curve if self.answering is None else self.answering.curve

    @property
    def score_curves(self) -> dict[ScoreName, QuantileCurve]:
        """The curve of each score's own threshold and percentile, in graph order."""
        return self.own or self.curves

    @property
    def names(self) -> tuple[ScoreName, ...]:
        """The calibrated scores, in graph order."""
        return tuple(self.curves)

    @property
    def samples(self) -> int:
        """How many held-out ID images it was fitted on."""
        return self.curve.samples

    @property
    def independent(self) -> int:
        """How many of them are independent: near-duplicates count as one."""
        return self.curve.independent or self.samples

    @property
    def max_accept(self) -> float:
        """The highest target acceptance that so many images can promise."""
        return self.curve.max_accept

    def columns(self, table: npt.ArrayLike) -> dict[ScoreName, Scores]:
        """Graph scores `[B, S]` as `{name: [B]}`."""
        values = np.asarray(table, dtype=np.float64)
        return {name: values[:, i] for i, name in enumerate(self.curves)}

    def score(self, scores: Mapping[ScoreName, Scores], predicted: npt.NDArray[np.int64] | None = None) -> Scores:
        """The fused score `[B]` of scores `{name: [B]}` of images that are given the classes `predicted [B]`.

        Raises `ValueError` without the classes, where the calibration knows what they are (`answering`).
        """
        if self.answering is None:
            return self.fusion.score(self.curves, scores)
        if predicted is None:
            raise ValueError("the fused score of this calibration needs the classes that images are given")
        return self.answering.fused(self.surprise(scores), predicted)

    def fused(self, outputs: Outputs) -> Scores:
        """The fused score `[B]` of what a graph returned."""
        return self.score(self.columns(outputs.scores), outputs.probabilities.argmax(1))

    def chances(self, probabilities: npt.ArrayLike) -> Scores:
        """The probabilities that leave the guard, `[B, C]`, of the graph's."""
        if self.answering is None:
            return np.asarray(probabilities, dtype=np.float64)
        return self.answering.sharpening.apply(probabilities)

    def thresholds(
        self,
        accept: float,
        *,
        confidence: float | None = None,
        coverage: float = DEFAULT_COVERAGE,
        max_error: float = DEFAULT_MAX_ERROR,
    ) -> Thresholds:
        """Every threshold at its target (see `Targets`).

        Single scores are calibrated on fewer photos than the fused one: beyond what these can promise, a score's
        threshold is the largest that they saw.

        Raises `ValueError` for an `accept` or a `confidence` that so few photos cannot promise; a `coverage` that they
        cannot promise puts every class into the label set.
        """
        fused = self.curve.threshold(accept, confidence=confidence)
        photos = None if self.answering is None else self.answering.photos
        return Thresholds(
            fused=fused,
            scores=tuple(
                (name, curve.threshold(min(accept, curve.max_accept))) for name, curve in self.score_curves.items()
            ),
            least_chance=None if photos is None else photos.least_chance(max_error, threshold=fused),
            label_cut=None if photos is None else photos.cut(coverage, threshold=fused),
        )

    def measure(self, outputs: Outputs) -> Measured:
        """The part of a verdict that no threshold moves, for a whole batch.

        Raises `QualityError` when the graph returned the wrong shape a number that is not finite, or a probability
        outside 0 to 1.
        """
        probabilities, scores = outputs.probabilities, outputs.scores
        if probabilities.ndim != 2 or scores.shape != (len(probabilities), len(self.curves)):
            raise QualityError(
                f"the graph returned probabilities {probabilities.shape} and scores {scores.shape}; its calibration "
                f"has {len(self.curves)} scores"
            )
        if not (np.isfinite(probabilities).all() and np.isfinite(scores).all()):
            raise QualityError("the graph returned a number that is not finite")
        if probabilities.min(initial=0.0) < -RANGE_SLACK or probabilities.max(initial=1.0) > 1 + RANGE_SLACK:
            raise QualityError("the graph returned a probability that is not between 0 and 1")
        columns = self.columns(scores)
        fused = self.score(columns, probabilities.argmax(1))
        return Measured(
            probabilities=self.chances(probabilities).tolist(),
            ranked=np.argsort(-probabilities, axis=1, kind="stable").tolist(),
            scores=scores.tolist(),
            percentiles=np.stack(
                [curve.percentile(columns[name]) for name, curve in self.score_curves.items()], axis=1
            ).tolist(),
            fused=fused.tolist(),
            fused_percentiles=self.curve.percentile(fused).tolist(),
            neighbours=outputs.neighbours,
            distances=outputs.distances,
        )

    def verdict(
        self,
        measured: Measured,
        row: int,
        *,
        classes: Sequence[str],
        thresholds: Thresholds,
        top_k: int = DEFAULT_TOP_K,
        traits: Traits | None = None,
    ) -> Verdict:
        """The verdict for one image of a measured batch. Raises `ValueError` for a `top_k` below 1.

        traits: of its picture; without them the verdict has no `quality`.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1; got {top_k}")
        probabilities, ranked = measured.probabilities[row], measured.ranked[row]
        top = tuple(
            ClassProbability(label=classes[c], class_index=c, probability=probabilities[c]) for c in ranked[:top_k]
        )
        fused = measured.fused[row]
        is_ood = fused > thresholds.fused
        scores = {
            name: ScoreVerdict(value=value, threshold=limit, percentile=percentile, is_ood=value > limit)
            for (name, limit), value, percentile in zip(
                thresholds.scores, measured.scores[row], measured.percentiles[row], strict=True
            )
        }
        radius = None
        for name, lipschitz in self.lipschitz.items():
            radius = abs(scores[name].threshold - scores[name].value) / lipschitz
        return Verdict(
            label=top[0].label,
            class_index=top[0].class_index,
            probability=top[0].probability,
            top_k=top,
            is_ood=is_ood,
            ood_score=fused,
            threshold=thresholds.fused,
            percentile=measured.fused_percentiles[row],
            scores=scores,
            labels=self._label_set(probabilities, ranked, classes, thresholds, is_ood=is_ood),
            decision=_decision(top[0].probability, thresholds, is_ood=is_ood),
            certified_radius=radius,
            quality=None if self.quality is None or traits is None else self.quality.quality(traits),
        )

    def _label_set(
        self,
        probabilities: Sequence[float],
        ranked: Sequence[int],
        classes: Sequence[str],
        thresholds: Thresholds,
        *,
        is_ood: bool,
    ) -> tuple[str, ...] | None:
        if self.answering is None or thresholds.label_cut is None:
            return None
        if is_ood:
            return ()
        size = self.answering.set_size((probabilities[c] for c in ranked), thresholds.label_cut)
        return tuple(classes[c] for c in ranked[:size])

    def verdicts(
        self,
        measured: Measured,
        *,
        classes: Sequence[str],
        thresholds: Thresholds,
        top_k: int = DEFAULT_TOP_K,
        traits: Sequence[Traits | None] | None = None,
    ) -> list[Verdict]:
        """The verdict for every image of a measured batch, with these `traits`. Raises as `verdict` does."""
        given = [None] * len(measured.fused) if traits is None else traits
        return [
            self.verdict(measured, row, classes=classes, thresholds=thresholds, top_k=top_k, traits=one)
            for row, one in enumerate(given)
        ]

    def judge(
        self, outputs: Outputs, *, classes: Sequence[str], accept: float = DEFAULT_ACCEPT, top_k: int = DEFAULT_TOP_K
    ) -> list[Verdict]:
        """One verdict per image.

        accept: the share of ID images that must not be flagged. Raises `ValueError` for an `accept` that the
        calibration cannot promise or a `top_k` below 1, and `QualityError` as `measure` does.
        """
        thresholds = self.thresholds(accept)
        return self.verdicts(self.measure(outputs), classes=classes, thresholds=thresholds, top_k=top_k)

    def flagged(self, outputs: Outputs, *, accept: float = DEFAULT_ACCEPT) -> npt.NDArray[np.bool_]:
        """Whether each image is flagged, `[B]`."""
        return np.asarray(self.fused(outputs) > self.curve.threshold(accept))

    def score_errors(self, expected: npt.ArrayLike, found: npt.ArrayLike) -> Scores:
        """Relative errors `[B, S]` of scores: |found - expected| / max(|expected|, the score's range on ID data).

        The range keeps a score that happens to be near 0 from being compared to nothing.
        """
        a, b = np.asarray(expected, dtype=np.float64), np.asarray(found, dtype=np.float64)
        ranges = np.array([curve.values[-1] - curve.values[0] for curve in self.curves.values()])
        return np.asarray(np.abs(a - b) / np.maximum(np.maximum(np.abs(a), ranges), 1e-12))


def _decision(chance: float, thresholds: Thresholds, *, is_ood: bool) -> Decision:
    if is_ood:
        return Decision.STRANGER
    if thresholds.least_chance is not None and chance < thresholds.least_chance:
        return Decision.UNSURE
    return Decision.ANSWER
