"""How often the evidence of a broken promise is a false alarm, and after how many images it is a true one: simulated.

False alarms: each stream draws calibration photos of its own, and then images from the same distribution. Delays: after
a thousand usual images, the share that is flagged at a target of 95 % rises, in one of two ways. *bulk*: all images
change, so that each quantile moves (P(score > x) becomes its power). *strangers*: some images are unlike all others.
The photos of the calibration lie at the exact quantiles there, so that the share is what the column says.

    python load_tests/promise_figures.py --json promise.json
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from oodguard.core.curve import QuantileCurve
from oodguard.load_tests.harness import console, percentile, report_table, run_script, write_report
from oodguard.load_tests.options import Options
from oodguard.server.promise import Promise

Draws = npt.NDArray[np.float64]

LIMIT = 1e9
PHOTOS = (279, 2_000, 20_000)
SHARES = (0.06, 0.08, 0.1, 0.2, 0.5)
KINDS = ("bulk", "strangers")
REPLICAS = (1, 2, 4, 8)
TARGET = 0.05
USUAL = 1_000
SHARED = {"replicas": "replicas", "median": "images, median", "p90": "images, 90 %"}
FALSE = {
    "photos": "calibration photos",
    "streams": "streams",
    "images": "images each",
    "alarms": "false alarms",
    "most": "highest evidence",
}
DELAYS = {
    "photos": "calibration photos",
    "allowed": "allowed at 95 %",
    "share": "flagged at 95 %",
    "kind": "what changes",
    "found": "found",
    "median": "images, median",
    "p90": "images, 90 %",
}  # fmt: skip


def main() -> None:
    """Simulate and print."""
    parser = Options("False alarms and detection delays of oodguard_promise_evidence, simulated.")
    parser.add_argument("--streams", type=int, default=100, help="streams of each false-alarm row (default: 100)")
    parser.add_argument("--images", type=int, default=100_000, help="images of each of these (default: 100000)")
    parser.add_argument("--changes", type=int, default=40, help="streams of each delay row (default: 40)")
    parser.add_argument("--most", type=int, default=20_000, help="images until a change counts as missed")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse()
    rng = np.random.default_rng(options.seed)
    false = [false_alarms(rng, photos, streams=options.streams, images=options.images) for photos in PHOTOS]
    console.print(report_table("Images like those of the calibration", FALSE, false))
    changes = [
        delays(rng, photos, share=share, kind=kind, streams=options.changes, most=options.most)
        for photos in PHOTOS
        for share in SHARES
        for kind in KINDS
    ]
    console.print(report_table(f"After {USUAL} usual images, the images change", DELAYS, changes))
    shares = [shared(rng, replicas, streams=options.changes) for replicas in REPLICAS]
    console.print(report_table(f"{PHOTOS[0]} photos, 20 % strangers: images of all replicas together", SHARED, shares))
    write_report(options.json, options=vars(options), rows=[*false, *changes, *shares])


def false_alarms(rng: np.random.Generator, photos: int, *, streams: int, images: int) -> dict[str, object]:
    """Streams of images like those of their own calibration photos, as a row."""
    highest = []
    for _ in range(streams):
        curve = QuantileCurve.fit(rng.random(photos))
        highest.append(max(evidences(Promise(curve), curve.percentile(rng.random(images)))))
    return {
        "photos": photos,
        "streams": streams,
        "images": images,
        "alarms": sum(one > LIMIT for one in highest),
        "most": f"{max(highest):.0f}",
    }


def delays(
    rng: np.random.Generator, photos: int, *, share: float, kind: str, streams: int, most: int
) -> dict[str, object]:
    """How many images of another kind are seen until the evidence is above the limit, as a row."""
    curve = QuantileCurve.fit(np.arange(1, photos + 1) / (photos + 1))
    found: list[float] = []
    for _ in range(streams):
        promise = Promise(curve)
        for value in curve.percentile(rng.random(USUAL)):
            promise.add(value)
        strange = evidences(promise, curve.percentile(changed(rng.random(most), rng, share=share, kind=kind)))
        found.append(next((n for n, value in enumerate(strange, start=1) if value > LIMIT), math.inf))
    return {
        "photos": photos,
        "allowed": f"{100 * Promise(curve).allowed[1 - TARGET]:.1f} %",
        "share": f"{100 * share:g} %",
        "kind": kind,
        "found": f"{sum(map(math.isfinite, found))} of {streams}",
        "median": _images(found, 50),
        "p90": _images(found, 90),
    }


def shared(rng: np.random.Generator, replicas: int, *, streams: int) -> dict[str, object]:
    """How many images several replicas see together until their evidence is above the limit, as a row."""
    photos = PHOTOS[0]
    curve = QuantileCurve.fit(np.arange(1, photos + 1) / (photos + 1))
    found = []
    for _ in range(streams):
        promises = [Promise(curve) for _ in range(replicas)]
        strange = curve.percentile(changed(rng.random(20_000), rng, share=0.2, kind="strangers"))
        for number, value in enumerate(strange, start=1):
            promises[rng.integers(replicas)].add(value)
            if sum(promise.total for promise in promises) > LIMIT:
                found.append(number)
                break
    return {"replicas": replicas, "median": percentile(found, 50), "p90": percentile(found, 90)}


def _images(found: Sequence[float], share: float) -> float | None:
    value = percentile(found, share)
    return value if math.isfinite(value) else None


def changed(usual: Draws, rng: np.random.Generator, *, share: float, kind: str) -> Draws:
    """Scores whose share above the threshold of 95 % is `share`; those of usual images are uniform."""
    if kind == "bulk":
        return 1 - (1 - usual) ** (math.log(TARGET) / math.log(share))
    strangers = (share - TARGET) / (1 - TARGET)
    return np.where(rng.random(len(usual)) < strangers, 2.0, usual)


def evidences(promise: Promise, percentiles: Draws) -> Iterator[float]:
    """The evidence after each image."""
    for value in percentiles:
        promise.add(value)
        yield promise.total


if __name__ == "__main__":
    run_script(main)
