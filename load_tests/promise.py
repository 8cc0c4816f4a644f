"""What the evidence of a broken promise says of real traffic: usual images, and then another camera's.

A server answers images drawn at random from a folder, over HTTP. Then a fresh server for each camera answers some of
them, the same images as the camera would give them until `oodguard_promise_evidence` is above the limit of the alert,
as many again, and usual images until it is below. The evidence is read after each request, of eight images.

    python load_tests/promise.py BUNDLE --images photos/test --usual 10000 --json promise.json
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from PIL import Image, ImageOps

from oodguard.core.answers import PredictResponse
from oodguard.core.curve import QuantileCurve
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import console, read_bundle, read_images, report_table, run_script, write_report
from oodguard.load_tests.options import Options
from oodguard.load_tests.request import multipart
from oodguard.server.promise import EVIDENCE, Promise

LIMIT = 1e9
TOGETHER = 8
TARGET = 95.0
COLUMNS = {
    "camera": "camera",
    "images": "images",
    "flagged": "above 95 %",
    "highest": "highest evidence",
    "after": "alarm after images",
    "over": "over after usual images",
}


def _banded(photo: Image.Image) -> Image.Image:
    width = photo.width
    middle = ImageOps.fit(photo, (width, max(1, round(width * 9 / 16))))
    return ImageOps.pad(middle, (width, width), color="black")


CAMERAS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "16:9 between black bands": _banded,
    "in grey": lambda photo: photo.convert("L"),
    "half as bright": lambda photo: photo.point([value // 2 for value in range(256)] * 3),
    "96-pixel thumbnails": lambda photo: ImageOps.contain(photo, (96, 96)),
    "as they are, encoded again": lambda photo: photo,
}


def seen_by(camera: Callable[[Image.Image], Image.Image], image: bytes) -> bytes:
    """The image as a camera would give it, as JPEG."""
    with Image.open(io.BytesIO(image)) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    stream = io.BytesIO()
    camera(photo).save(stream, "JPEG", quality=92)
    return stream.getvalue()


class Traffic:
    """Images as one camera gives them, to one server: their percentiles, and the evidence after each request."""

    def __init__(
        self, gateway: Gateway, images: Sequence[bytes], *, rng: random.Random, camera: str | None = None
    ) -> None:
        self._gateway = gateway
        self._images = images
        self._rng = rng
        self._camera = camera
        self._client = httpx.Client(base_url=gateway.url, timeout=60)
        self.percentiles: list[float] = []
        self.highest = 0.0

    def until(self, reached: Callable[[float], bool], *, most: int) -> int | None:
        """Send images drawn at random until the evidence is as wanted: how many, or None if `most` are not enough."""
        sent = 0
        while sent < most:
            drawn = self._rng.choices(self._images, k=min(TOGETHER, most - sent))
            request = multipart([seen_by(CAMERAS[self._camera], image) for image in drawn] if self._camera else drawn)
            answer = self._client.post(request.path, content=request.content, headers=dict(request.headers))
            answer.raise_for_status()
            found = PredictResponse.model_validate_json(answer.content).predictions
            self.percentiles += [one.percentile for one in found]
            sent += request.images
            evidence = self._evidence()
            self.highest = max(self.highest, evidence)
            if reached(evidence):
                return sent
        return None

    def _evidence(self) -> float:
        """What Prometheus adds up."""
        lines = self._gateway.metrics().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{EVIDENCE[0]}{{"))


def row_of(
    camera: str, percentiles: Sequence[float], highest: float, *, after: int | None, over: int | None = None
) -> dict[str, object]:
    """One kind of traffic as a row."""
    return {
        "camera": camera,
        "images": len(percentiles),
        "flagged": f"{100 * sum(one >= TARGET for one in percentiles) / len(percentiles):.1f} %",
        "highest": f"{highest:.2g}",
        "after": after,
        "over": over,
    }


def replayed(
    percentiles: Sequence[float], curve: QuantileCurve, *, streams: int, images: int, rng: random.Random
) -> dict[str, object]:
    """Streams drawn from answers that a server gave, all in one row; `after` is of the first stream with an alarm."""
    drawn: list[float] = []
    highest, after = 0.0, None
    for _ in range(streams):
        promise, begin = Promise(curve), len(drawn)
        drawn += rng.choices(percentiles, k=images)
        for number, value in enumerate(drawn[begin:], start=1):
            promise.add(value)
            highest = max(highest, promise.total)
            if after is None and promise.total > LIMIT:
                after = number
    return row_of(f"usual, drawn again, {streams} streams", drawn, highest, after=after)


def another_camera(
    bundle: Path,
    flags: Sequence[str],
    images: Sequence[bytes],
    *,
    name: str,
    before: int,
    most: int,
    rng: random.Random,
) -> dict[str, object]:
    """A fresh server sees usual images, a camera's, and usual ones again, as a row."""
    with Gateway(bundle, *flags) as gateway:
        usual = Traffic(gateway, images, rng=rng)
        usual.until(lambda evidence: False, most=before)
        other = Traffic(gateway, images, rng=rng, camera=name)
        after = other.until(lambda evidence: evidence > LIMIT, most=most)
        # The evidence goes on rising for a while.
        other.until(lambda evidence: False, most=len(other.percentiles) if after else 0)
        over = usual.until(lambda evidence: evidence < LIMIT, most=most) if after else None
        return row_of(name, other.percentiles, other.highest, after=after, over=over)


def main() -> None:
    """Measure and print."""
    parser = Options("What the evidence of a broken promise says of real traffic.")
    parser.add_bundle().add_images(count=10_000).add_serve()
    parser.add_argument("--usual", type=int, default=5_000, help="usual images (default: 5000)")
    parser.add_argument("--streams", type=int, default=20, help="streams drawn from their answers (default: 20)")
    parser.add_argument("--replayed", type=int, default=100_000, help="images of each of these (default: 100000)")
    parser.add_argument("--cameras", nargs="+", choices=CAMERAS, default=list(CAMERAS), help="(default: all)")
    parser.add_argument("--before", type=int, default=1_000, help="usual images before another camera (default: 1000)")
    parser.add_argument("--most", type=int, default=2_000, help="images of another camera (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse()
    curve = read_bundle(options.bundle).calibration.curve
    images = read_images(options.images, count=options.count)
    allowed = ", ".join(f"{100 * share:.1f} % at {accept:g}" for accept, share in Promise(curve).allowed.items())
    photos = curve.independent or curve.samples
    console.print(f"{len(images)} images; {photos} independent calibration photos allow flags of {allowed}")
    rng = random.Random(options.seed)
    with Gateway(options.bundle, *options.serve) as gateway:
        usual = Traffic(gateway, images, rng=rng)
        after = usual.until(lambda evidence: evidence > LIMIT, most=options.usual)
    rows = [row_of("usual", usual.percentiles, usual.highest, after=after)]
    again = {"streams": options.streams, "images": options.replayed}
    rows.append(replayed(usual.percentiles, curve, rng=rng, **again))
    console.print(report_table("Usual images, and their answers drawn again", COLUMNS, rows))
    cameras = []
    for name in options.cameras:
        times = {"before": options.before, "most": options.most}
        cameras.append(another_camera(options.bundle, options.serve, images, name=name, rng=rng, **times))
        console.print(f"  {name}: an alarm after {cameras[-1]['after']} images", style="dim")
    console.print(report_table(f"Another camera, after {options.before} usual images", COLUMNS, cameras))
    settings = {**vars(options), "calibration_photos": photos, "allowed": allowed}
    write_report(options.json, options=settings, rows=[*rows, *cameras])


if __name__ == "__main__":
    run_script(main)
