"""Which decoder should feed the graph? Milliseconds an image, pixel difference and gain of threads, on your photos.

    pip install simplejpeg opencv-python-headless pyvips pyvips-binary rich
    python load_tests/decoders.py PHOTOS

Every decoder makes the same 224 x 224 array; those that are not installed are left out. The difference is the mean
over pixels to the full Pillow path, in grey levels.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels, to_pixels
from oodguard.core.reduced import REDUCED_MARGINS

FULL = Preprocessing(resize=256, crop=224, mean=(0, 0, 0), std=(1, 1, 1))
REDUCED = FULL.model_copy(update={"reduced_jpeg": True})
Decoder = Callable[[bytes], Pixels]


def pillow(data: bytes) -> Pixels:
    """Pillow, every pixel."""
    return load_pixels(data, FULL)


def pillow_reduced(data: bytes) -> Pixels:
    """Pillow, at reduced scale where the margin allows."""
    return load_pixels(data, REDUCED)


def simplejpeg_reduced(data: bytes) -> Pixels:
    """simplejpeg (libjpeg-turbo) at reduced scale, Pillow's resize."""
    import simplejpeg

    least = round(min(REDUCED_MARGINS.values()) * FULL.resize)
    array = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, min_factor=1)
    return to_pixels(Image.fromarray(array), FULL)


def opencv(data: bytes) -> Pixels:
    """OpenCV's decoder and its bicubic resize (no antialiasing)."""
    import cv2

    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    window = int(min(width, height) * FULL.crop / FULL.resize)
    top, left = (height - window) // 2, (width - window) // 2
    return cv2.resize(
        image[top : top + window, left : left + window], (FULL.crop, FULL.crop), interpolation=cv2.INTER_CUBIC
    )


def vips(data: bytes) -> Pixels:
    """libvips' thumbnail (shrinks while it loads)."""
    import pyvips

    image = pyvips.Image.thumbnail_buffer(data, FULL.resize, height=FULL.resize, size="both", crop="centre")
    place = (FULL.resize - FULL.crop) // 2
    return image.crop(place, place, FULL.crop, FULL.crop).numpy()


DECODERS: list[tuple[str, Decoder, str]] = [
    ("Pillow, full", pillow, "PIL"),
    ("Pillow, reduced", pillow_reduced, "PIL"),
    ("simplejpeg, reduced", simplejpeg_reduced, "simplejpeg"),
    ("OpenCV, full", opencv, "cv2"),
    ("libvips thumbnail", vips, "pyvips"),
]


def encoded_sets(folder: Path, count: int) -> dict[str, list[bytes]]:
    """The photos as they are, and enlarged to what a phone takes."""
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")]
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    large = []
    for path in chosen[: max(4, count // 8)]:
        stream = io.BytesIO()
        Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        large.append(stream.getvalue())
    return {"as they are": [p.read_bytes() for p in chosen], "4000 x 3000": large}


def milliseconds(decode: Decoder, images: list[bytes], threads: int, rounds: int) -> float:
    """Milliseconds of wall time an image; the median of some rounds."""
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            started = time.perf_counter()
            list(pool.map(decode, images))
            times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times) / len(images)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare image decoders on a folder of JPEG photos.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        parser.error(f"{arguments.photos} is not a folder")
    for title, images in encoded_sets(arguments.photos, arguments.count).items():
        table = Table(title=f"{len(images)} JPEG photos, {title}", title_justify="left")
        for column in ("decoder", "ms, 1 thread", "ms, 2 threads", "mean difference"):
            table.add_column(column, justify="left" if column == "decoder" else "right")
        reference = [pillow(data).astype(np.int16) for data in images]
        for name, decode, package in DECODERS:
            if importlib.util.find_spec(package) is None:
                continue
            difference = np.mean([np.abs(decode(d) - r).mean() for d, r in zip(images, reference, strict=True)])
            one, two = (milliseconds(decode, images, threads, arguments.rounds) for threads in (1, 2))
            table.add_row(name, f"{one:.2f}", f"{two:.2f}", f"{difference:.2f}")
        Console().print(table)


if __name__ == "__main__":
    main()
