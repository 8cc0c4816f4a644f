"""Does the quality of the picture tell a spoilt known thing from a stranger, and what does it cost? On your photos.

    pip install rich
    python load_tests/quality.py BUNDLE --known photos/test --strangers clothing=other/clothing

Known photos are spoilt in each way and judged as JPEG, at the bundle's own targets. Of those flagged, the first table
says how many have a reason: the picture is to blame. Of flagged strangers, most should have none. The second table says
what the measurement costs beside a whole answer in this process, one image at a time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

import oodguard
from oodguard.core.answers import Prediction
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.quality import QualityScale, load_picture, traits_of
from oodguard.server.guard import Guard

Change = Callable[[Image.Image], Image.Image]
# What linear light is to the power of.
GAMMA = 2.2
LARGE = (4000, 3000)


def blurred(sigma: float) -> Change:
    """A Gaussian blur, in pixels of the file."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(sigma))


def moved(pixels: int) -> Change:
    """A camera that moves sideways."""

    def change(image: Image.Image) -> Image.Image:
        wide = np.pad(np.asarray(image, dtype=np.float64), ((0, 0), (pixels, 0), (0, 0)), mode="edge")
        sums = np.cumsum(wide, axis=1)
        return Image.fromarray(np.clip((sums[:, pixels:] - sums[:, :-pixels]) / pixels, 0, 255).astype(np.uint8))

    return change


def exposed(stops: float) -> Change:
    """More or less light, in stops, clipped at white."""

    def change(image: Image.Image) -> Image.Image:
        light = (np.asarray(image) / 255.0) ** GAMMA * 2**stops
        return Image.fromarray((255 * np.minimum(light, 1.0) ** (1 / GAMMA)).round().astype(np.uint8))

    return change


def shrunk(side: int) -> Change:
    """A thumbnail with this short side."""

    def change(image: Image.Image) -> Image.Image:
        scale = side / min(image.size)
        return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)

    return change


CHANGES: dict[str, Change] = {
    "as they are": lambda image: image,
    "blurred, sigma 1": blurred(1),
    "blurred, sigma 2": blurred(2),
    "blurred, sigma 3": blurred(3),
    "blurred, sigma 4": blurred(4),
    "moved, 9 pixels": moved(9),
    "2 stops darker": exposed(-2),
    "3 stops darker": exposed(-3),
    "1.5 stops lighter": exposed(1.5),
    "2.5 stops lighter": exposed(2.5),
    "short side 96": shrunk(96),
    "short side 48": shrunk(48),
}


def photos_in(folder: Path, count: int) -> list[Path]:
    """At most so many photos, spread over the folder. Raises `InputError` where there are none."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise InputError(f"{folder} has no photos; name another folder")
    return [paths[place] for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


def changed(paths: Sequence[Path], change: Change) -> Iterator[bytes]:
    """The photos as JPEG, each changed."""
    for path in paths:
        stream = io.BytesIO()
        change(Image.open(path).convert("RGB")).save(stream, "JPEG", quality=75)
        yield stream.getvalue()


def row_of(guard: Guard, images: Iterator[bytes]) -> tuple[str, ...]:
    """Photos, flagged among them, with a reason among these, with a reason among all, and the usual reason."""
    found: list[Prediction] = [one.prediction for one in guard.stream(images) if one.prediction is not None]
    reasons = [one.quality.reason for one in found if one.quality is not None]
    flagged = [reason for one, reason in zip(found, reasons, strict=True) if one.is_ood]
    given = [reason for reason in reasons if reason is not None]
    return (
        str(len(found)),
        percent(len(flagged), len(found)),
        percent(sum(reason is not None for reason in flagged), len(flagged)),
        percent(sum(reason is None for reason in flagged), len(flagged)),
        percent(len(given), len(found)),
        statistics.mode(given) if given else "",
    )


def percent(part: int, whole: int) -> str:
    """A share, where there is one."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def microseconds(work: Callable[[], object], *, rounds: int, each: int) -> float:
    """The time of one call: the least of the rounds' means, which other processes disturb least."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(each):
            work()
        best = min(best, (time.perf_counter() - started) / each)
    return 1e6 * best


def cost(guard: Guard, scale: QualityScale, data: bytes) -> tuple[str, ...]:
    """What the quality of one image costs, what its answer takes, and the share."""
    picture = load_picture(data, guard.manifest.preprocessing)
    measured = microseconds(lambda: scale.quality(traits_of(picture.pixels, scaling=1.0)), rounds=100, each=20)
    answer = microseconds(lambda: guard.predict(data), rounds=30, each=1)
    return f"{measured:.0f} µs", f"{answer / 1e3:.2f} ms", f"{100 * measured / answer:.2f} %"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the quality of the picture tells, and what it costs.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--known", type=Path, required=True, help="folder of photos of known things, not trained on")
    parser.add_argument("--strangers", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--count", type=int, default=300, help="photos of each kind")
    arguments = parser.parse_args()
    console = Console(width=120)
    with oodguard.load(arguments.bundle, sessions=1, threads=1) as guard:
        scale = guard.manifest.calibration.quality
        if scale is None:
            parser.error(f"{arguments.bundle} was made without the quality of its photos; train and export it again")
        known = photos_in(arguments.known, arguments.count)
        table = Table(title=f"{guard.model.name}, at {guard.manifest.targets.accept:.0%}", title_justify="left")
        for column in (
            "photos",
            "count",
            "flagged",
            "of these with a reason",
            "without",
            "reason, of all",
            "usual one",
        ):
            table.add_column(column, justify="left" if column in ("photos", "usual one") else "right")
        for name, change in CHANGES.items():
            table.add_row(f"known, {name}", *row_of(guard, changed(known, change)))
        for stranger in arguments.strangers:
            name, _, folder = stranger.partition("=")
            paths = photos_in(Path(folder), arguments.count)
            table.add_row(f"strangers, {name}", *row_of(guard, changed(paths, CHANGES["as they are"])))
        console.print(table)
        side = " x ".join(map(str, guard.manifest.preprocessing.size))
        table = Table(title=f"cost at {side} pixels, {guard!r}", title_justify="left")
        for column in ("a JPEG of", "quality", "an answer in this process", "share"):
            table.add_column(column, justify="right")
        with Image.open(known[0]) as image:
            sizes = (image.size, LARGE)
        for size in sizes:
            (data,) = changed(known[:1], lambda image, size=size: image.resize(size, Image.Resampling.BICUBIC))  # type: ignore[misc]
            table.add_row(f"{size[0]} x {size[1]}", *cost(guard, scale, data))
        console.print(table)


if __name__ == "__main__":
    main()
