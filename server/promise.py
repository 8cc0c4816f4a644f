"""Whether live traffic keeps what the calibration promises: evidence against it that may be read at any moment."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oodguard.core.binomial import upper_limit
from oodguard.core.curve import QuantileCurve
from oodguard.core.manifest import Manifest
from oodguard.core.verdict import Verdict
from oodguard.server.cells import Cells, PrivateCells

# Target acceptances whose promises are tested: images that change as a whole break the low ones first, a few strangers
# among usual images the high ones.
ACCEPTS = (0.5, 0.8, 0.9, 0.95, 0.99)
# Alternatives: the odds of a flag, as multiples of the highest odds that the promise allows.
ODDS = (1.25, 1.5, 2.0, 4.0, 8.0, 32.0)
# Of all shares allowed together: the chance, over calibration photos, that one of them is too low.
CHANCE = 1e-3
# Of each alternative's evidence: the evidence falls below a limit soon after the images are good again.
MOST_EVIDENCE = 1e12
# Levels are multiples of 1 / (n + 1) that have been a percentage in between.
ROUNDING = 1e-9

EVIDENCE = (
    "oodguard_promise_evidence",
    "Evidence that more images are flagged at an acceptance than the calibration allows; add it up.",
)
ALLOWED = (
    "oodguard_promise_allowed_share",
    "Highest share of ID images that may be flagged at an acceptance, as the calibration photos are few.",
)
LABELS = {EVIDENCE[0]: ("accept",), ALLOWED[0]: ("accept",)}


def allowed_share(rank: int, samples: int, *, chance: float) -> float:
    """The share p of ID images above the `rank`-th smallest of `samples` calibration scores that is exceeded only with
    probability `chance` over the calibration photos.

    The share is distributed as Beta(n + 1 - r, r), whatever the scores' distribution (less, where scores tie), so p
    solves `P(Binomial(n, p) <= n - r) = chance`: Clopper and Pearson's upper limit of n - r flags in n images.

    ```python
    allowed_share(266, 279, chance=2e-4)  # 0.108: what 279 photos can promise at a target of 95 %
    ```
    """
    return upper_limit(samples - rank, samples, chance=chance)


class Promise:
    """Evidence that the images of one stream are flagged more often than one quantile curve promises.

    At target acceptance a, an image is flagged where its score is above the threshold of a, whatever its request asked
    for. The hypothesis is that of each image, given all before it, the chance to be flagged at a is at most
    `allowed[a]`, for every a of `ACCEPTS` that the curve can promise. That is 1 - a and what n calibration photos leave
    open (`allowed_share`): the sampling error of the calibration is no broken promise.

    For p the share allowed and q an alternative above it, L = q/p for a flag and (1 - q)/(1 - p) otherwise has an
    expectation of at most 1 under the hypothesis, so the product of L over any images is an e-process. The evidence is
    the sum of the e-processes that begin at each image so far (Shiryaev and Roberts),

        M_t = (M_{t-1} + 1) L_t,    evidence = the mean of M_t over all a and q,

    a mixture of e-detectors (Shin, Ramdas and Rinaldo 2023, "E-detectors: a nonparametric framework for sequential
    change detection"): under the hypothesis `E[evidence] <= E[images]` at any time of looking. So it
    exceeds c among N images with a chance of at most N / c, and the mean number of images to that is at least c. A
    stream that was good for a million images is found as soon as one that begins bad. The sum over streams, each with
    its own images, has the same bound for all their images together.

    ```python
    promise = Promise(calibration.curve)
    promise.add(verdict.percentile)
    promise.total > 1e9  # false at most once in 1e9 images
    ```

    What is allowed is exact where the curve's scores are of photos that trained nothing, near-duplicates counted once;
    with out-of-fold scores and scores made alike by class it is as good an approximation as those are.

    Deviation from the paper: M is cut at `MOST_EVIDENCE`, which lowers it and so keeps the bound. Fewer flags never
    give more evidence: a stream of harmless images is no broken promise. Adding an image takes about two microseconds.
    """

    def __init__(self, curve: QuantileCurve, *, cells: Cells | None = None, stream: str = "") -> None:
        """`cells`: where the evidence is kept, under the name of the `stream`."""
        accepts = [accept for accept in ACCEPTS if accept <= curve.max_accept]
        # The rank that `QuantileCurve.threshold` chooses.
        self._levels = [curve.levels[bisect_left(curve.levels, accept - 1e-12)] for accept in accepts]
        # Near-duplicates among the photos promise no more than one of them.
        photos = curve.independent or curve.samples
        ranks = [math.floor(level * (photos + 1) + ROUNDING) for level in self._levels]
        chance = CHANCE / len(ACCEPTS)
        shares = [allowed_share(max(rank, 1), photos, chance=chance) for rank in ranks]
        self.allowed = dict(zip(accepts, shares, strict=True))
        p = np.array(shares)[:, None]
        odds = p / (1 - p) * np.array(ODDS)
        q = odds / (1 + odds)
        above, below = q / p, (1 - q) / (1 - p)
        # `_factors[k]`: L `[A, Q]` of an image that reaches the k lowest of the levels.
        reached = np.arange(len(accepts) + 1)[:, None] > np.arange(len(accepts))
        self._factors = np.where(reached[:, :, None], above, below)
        self._share = 1.0 / above.size
        kept = (cells or PrivateCells()).take("promise", {"stream": stream}, above.size)
        # Views of a store's memory stay views of it.
        self._evidence = np.asarray(kept, dtype=np.float64).reshape(above.shape)
        self.images = 0

    def begin(self) -> None:
        """Begin anew, whatever the cells held."""
        self._evidence[:] = 0

    def add(self, percentile: float) -> None:
        """Count one image: the share of ID images with a lower fused score, in percent."""
        evidence = self._evidence
        evidence += self._share
        evidence *= self._factors[bisect_right(self._levels, percentile / 100 + ROUNDING)]
        np.minimum(evidence, MOST_EVIDENCE, out=evidence)
        self.images += 1

    @property
    def total(self) -> float:
        """The evidence."""
        return float(self._evidence.sum())

    @property
    def evidence(self) -> dict[float, float]:
        """What each acceptance adds to it."""
        return dict(zip(self.allowed, self._evidence.sum(axis=1).tolist(), strict=True))


class PromiseWatch(Collector):
    """The evidence on the images that the served model has answered, for a scrape."""

    def __init__(self, cells: Cells | None = None) -> None:
        self._cells = cells
        self._manifest: Manifest | None = None
        self._promise: Promise | None = None

    def model(self, manifest: Manifest) -> None:
        """Watch the promise of the model now served. The evidence begins anew, unless it is the same model again."""
        before, self._manifest = self._manifest, manifest
        if before and (before.graph_sha256, before.calibration) == (manifest.graph_sha256, manifest.calibration):
            return
        model = f"{manifest.graph_sha256} {manifest.calibration.model_dump_json()}"
        stream = hashlib.sha256(model.encode()).hexdigest()
        self._promise = Promise(manifest.calibration.curve, cells=self._cells, stream=stream)
        if before is not None:
            self._promise.begin()

    def count(self, verdict: Verdict, manifest: Manifest) -> None:
        """Count one image that the model of `manifest` answered; a replaced model's say nothing of the new one."""
        if self._promise is not None and manifest is self._manifest:
            self._promise.add(verdict.percentile)

    def collect(self) -> Iterator[Metric]:
        """The series, for a scrape."""
        evidence = GaugeMetricFamily(*EVIDENCE, labels=LABELS[EVIDENCE[0]])
        allowed = GaugeMetricFamily(*ALLOWED, labels=LABELS[ALLOWED[0]])
        if self._promise is not None:
            for accept, value in self._promise.evidence.items():
                evidence.add_metric([f"{accept:g}"], value)
                allowed.add_metric([f"{accept:g}"], self._promise.allowed[accept])
        yield from (evidence, allowed)
