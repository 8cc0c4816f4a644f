from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import beta

from oodguard.core.curve import QuantileCurve
from oodguard.core.manifest import MANIFEST_FILE, Manifest
from oodguard.core.verdict import Outputs, Verdict
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.promise import ACCEPTS, ODDS, Promise, allowed_share
from tests.server.test_drift import series

Levels = npt.NDArray[np.float64]
# A percentile of each kind that a promise tells apart: below every threshold, between two, above all.
KINDS = (20.0, 60.0, 85.0, 92.0, 97.0, 100.0)


def curve(samples: int = 279) -> QuantileCurve:
    """Of scores that are their own share."""
    return QuantileCurve.fit(np.arange(1, samples + 1) / (samples + 1))


def evidence(promise: Promise, percentiles: Iterable[float]) -> float:
    for percentile in percentiles:
        promise.add(percentile)
    return sum(promise.evidence.values())


def chances(promise: Promise) -> list[float]:
    """Of each of `KINDS`, where as many images are flagged at every acceptance as is allowed."""
    above = [1.0, *promise.allowed.values(), 0.0]
    return [a - b for a, b in itertools.pairwise(above)]


def images_to(promise: Promise, limit: float, percentiles: Iterable[float]) -> int | None:
    for number, percentile in enumerate(percentiles, start=1):
        promise.add(percentile)
        if sum(promise.evidence.values()) > limit:
            return number
    return None


@pytest.mark.parametrize(
    ("rank", "samples", "chance"),
    [(266, 279, 2e-4), (140, 279, 2e-4), (20, 20, 0.1), (1, 20, 0.5), (99_000, 100_000, 1e-6), (1000, 1_000_000, 0.01)],
)
def test_the_allowed_share_is_the_quantile_of_a_beta_distribution(rank: int, samples: int, chance: float) -> None:
    expected = beta.isf(chance, samples + 1 - rank, rank)
    assert allowed_share(rank, samples, chance=chance) == pytest.approx(expected, rel=1e-9)


def test_more_calibration_photos_promise_more() -> None:
    few, many = Promise(curve(279)).allowed, Promise(curve(100_000)).allowed
    assert {a: round(p, 3) for a, p in few.items()} == {0.5: 0.605, 0.8: 0.292, 0.9: 0.174, 0.95: 0.108, 0.99: 0.039}
    assert {a: round(p, 3) for a, p in many.items()} == {0.5: 0.505, 0.8: 0.204, 0.9: 0.102, 0.95: 0.052, 0.99: 0.010}
    # Near-duplicates count as one.
    alike = Promise(QuantileCurve.fit(np.arange(1000), independent=279)).allowed
    assert {**alike, 0.99: few[0.99]} == pytest.approx(few)
    assert few[0.99] < alike[0.99] < 0.05
    # Twenty photos promise nothing at 99 %.
    assert list(Promise(curve(20)).allowed) == [0.5, 0.8, 0.9, 0.95]


@pytest.mark.parametrize("samples", [20, 279, 5000])
def test_an_image_counts_as_the_threshold_flags_it(samples: int) -> None:
    # Distinct scores, among them each threshold, just below and just above it.
    scores = np.exp(np.random.default_rng(0).normal(size=samples))
    fitted = QuantileCurve.fit(scores)
    for accept in Promise(fitted).allowed:
        threshold = fitted.threshold(accept)
        for value in (np.nextafter(threshold, 0), threshold, np.nextafter(threshold, 9), scores.max() + 1):
            promise = Promise(fitted)
            evidence(promise, [float(fitted.percentile(value))])
            p = promise.allowed[accept]
            q = [p / (1 - p) * odds / (1 + p / (1 - p) * odds) for odds in ODDS]
            factors = [a / p if value > threshold else (1 - a) / (1 - p) for a in q]
            expected = np.mean(factors) / len(promise.allowed)
            assert promise.evidence[accept] == pytest.approx(expected, rel=1e-12), (accept, value)


def test_the_expected_evidence_is_the_number_of_images_where_all_that_is_allowed_is_flagged() -> None:
    chance = chances(Promise(curve()))
    assert min(chance) > 0
    assert sum(chance) == pytest.approx(1)
    for images in (1, 2, 3):
        expected = sum(
            math.prod(chance[kind] for kind in stream) * evidence(Promise(curve()), [KINDS[kind] for kind in stream])
            for stream in itertools.product(range(len(KINDS)), repeat=images)
        )
        assert expected == pytest.approx(images, rel=1e-12)


def test_the_expected_evidence_is_less_whatever_the_past_where_fewer_are_flagged() -> None:
    # The chances follow the images before, as they do where cameras send in bursts.
    most = chances(Promise(curve()))
    rest = [most[0] + most[5], *most[1:5], 0.0]

    def expected(stream: tuple[int, ...], images: int) -> float:
        if len(stream) == images:
            return evidence(Promise(curve()), [KINDS[kind] for kind in stream])
        now = rest if stream and stream[-1] > 2 else most
        return sum(p * expected((*stream, kind), images) for kind, p in enumerate(now) if p)

    assert expected((), 3) < 3
    assert expected((), 1) == pytest.approx(1, rel=1e-12)


def test_a_lower_percentile_never_gives_more_evidence() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        high = rng.uniform(0, 100, 40)
        low = np.where(rng.random(40) < 0.2, rng.uniform(0, high), high)
        assert evidence(Promise(curve()), low) <= evidence(Promise(curve()), high)
    # Where nothing is flagged, evidence does not grow with the images: M = (M + 1) L ends at L / (1 - L).
    promise = Promise(curve())
    p = np.array(list(promise.allowed.values()))[:, None]
    q = p * np.array(ODDS) / (1 - p + p * np.array(ODDS))
    factor = (1 - q) / (1 - p)
    assert evidence(promise, [0.0] * 5000) == pytest.approx(np.mean(factor / (1 - factor)), rel=1e-9)


@pytest.mark.parametrize("limit", [10.0, 100.0])
def test_the_mean_number_of_images_to_a_false_alarm_is_at_least_the_limit(limit: float) -> None:
    rng = np.random.default_rng(4)
    chance = chances(Promise(curve()))
    found = []
    for _ in range(300):
        stream = rng.choice(KINDS, size=int(100 * limit), p=chance)
        images = images_to(Promise(curve()), limit, stream.tolist())
        assert images is not None
        found.append(images)
    # At the edge of the hypothesis; the bound is not so wide that it says nothing.
    assert limit < np.mean(found) - 3 * np.std(found) / math.sqrt(len(found))
    assert np.mean(found) < 20 * limit


def test_images_like_those_of_the_calibration_give_no_evidence() -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        scores = rng.normal(size=279)
        fitted = QuantileCurve.fit(scores)
        assert images_to(Promise(fitted), 1e6, fitted.percentile(rng.normal(size=20_000))) is None


@pytest.mark.parametrize(("share", "most"), [(0.2, 800), (0.5, 80), (1.0, 20)])
def test_strangers_among_usual_images_are_found_however_long_it_went_well(share: float, most: int) -> None:
    rng = np.random.default_rng(6)
    promise = Promise(curve())
    usual = curve().percentile(rng.random(20_000))
    assert images_to(promise, 1e6, usual) is None
    strange = np.where(rng.random(5000) < share, 100.0, curve().percentile(rng.random(5000)))
    images = images_to(promise, 1e9, strange)
    assert images is not None
    assert images <= most


def test_a_shift_of_the_bulk_is_found_that_flags_nothing_at_high_acceptances() -> None:
    # Every image in the upper half, none above the threshold of 80 %.
    promise = Promise(curve())
    images = images_to(promise, 1e9, np.random.default_rng(7).uniform(55, 78, 1000))
    assert images is not None
    assert images < 100
    assert max(promise.evidence, key=promise.evidence.__getitem__) == 0.5


def test_evidence_stays_finite_and_falls_once_the_images_are_good_again() -> None:
    rng = np.random.default_rng(8)
    promise = Promise(curve())
    assert evidence(promise, [100.0] * 10_000) == pytest.approx(len(ODDS) * len(ACCEPTS) * 1e12)
    usual = curve().percentile(rng.random(2000))
    number = next(n for n, percentile in enumerate(usual, start=1) if evidence(promise, [percentile]) < 1e9)
    assert 50 < number < 1000
    assert promise.images == 10_000 + number


def test_evidence_of_streams_adds_up_within_the_same_bound() -> None:
    # Two replicas share the images at random; the bound is for all images of both.
    rng = np.random.default_rng(9)
    chance = chances(Promise(curve()))
    found = []
    for _ in range(300):
        replicas = Promise(curve()), Promise(curve())
        draws = zip(rng.integers(2, size=2000), rng.choice(KINDS, size=2000, p=chance).tolist(), strict=True)
        found.append(
            next(
                number
                for number, (one, percentile) in enumerate(draws, start=1)
                if evidence(replicas[one], [percentile]) + evidence(replicas[1 - one], []) > 20
            )
        )
    assert np.mean(found) - 3 * np.std(found) / math.sqrt(len(found)) > 20


def test_every_answered_image_is_evidence_whatever_its_own_acceptance(
    start: Any, fake: FakeEngine, golden: list[bytes], strangers: Path
) -> None:
    client = start(engine=fake)
    fitted = client.parts.serving.model.manifest.calibration.curve
    expected = Promise(fitted)
    exported = series(client, "oodguard_promise_evidence")
    assert exported == dict.fromkeys((("", f"{accept:g}") for accept in expected.allowed), 0.0)
    allowed = series(client, "oodguard_promise_allowed_share")
    assert allowed == {("", f"{accept:g}"): share for accept, share in expected.allowed.items()}
    images = [*golden, *(path.read_bytes() for path in sorted(strangers.rglob("*.png")))]
    for accept in (0.5, 0.9):
        files = [("image", (str(i), image)) for i, image in enumerate([*images, b"junk"])]
        for found in client.post(f"/predict?accept={accept}", files=files).json()["predictions"]:
            expected.add(found["percentile"])
    assert expected.images == 2 * len(images)
    exported = series(client, "oodguard_promise_evidence")
    assert exported == {("", f"{accept:g}"): value for accept, value in expected.evidence.items()}
    assert sum(exported.values()) > 1


def test_another_calibration_begins_anew_and_the_same_model_goes_on(
    start: Any, bundle: Path, tmp_path: Path, picture: Any
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    client = start(folder=folder)
    old = client.parts.serving.model.manifest
    verdict = verdict_of(old)

    def replaced(change: Callable[[dict[str, Any]], None]) -> None:
        path = folder / MANIFEST_FILE
        record = json.loads(path.read_text())
        change(record)
        for golden in record["golden"]:
            golden["ood_score"] = golden["threshold"] = None
        path.write_text(json.dumps(record))
        client.portal.call(client.parts.serving.reload)

    def total() -> float:
        return sum(series(client, "oodguard_promise_evidence").values())

    client.post("/predict", content=picture("white"), headers={"content-type": "image/png"})
    before = total()
    assert before > 0
    # The same graph and calibration under another name promise the same.
    replaced(lambda record: record.update(version="8"))
    assert total() == before

    def recalibrated(record: dict[str, Any]) -> None:
        record["version"] = "9"
        record["calibration"]["fusion"]["curve"]["values"][-1] += 0.001

    replaced(recalibrated)
    model = client.parts.serving.model
    assert (model.ref.version, total()) == ("9", 0.0)
    # A request that began on the old model says nothing of the new one.
    client.parts.metrics.answer(verdict, old)
    assert total() == 0.0
    client.parts.metrics.answer(verdict, model.manifest)
    assert total() > 0.0


def verdict_of(manifest: Manifest) -> Verdict:
    """Of an image with the scores of the first golden one."""
    golden = manifest.golden[0]
    outputs = Outputs(
        probabilities=np.array([golden.probabilities], dtype=np.float32),
        scores=np.array([golden.scores], dtype=np.float32),
    )
    return manifest.judge(outputs)[0]
