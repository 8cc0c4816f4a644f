"""The embedded example: scikit-learn's handwritten digits as image files, and two samples to try a server with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 96


def write_digits(cache: Path) -> Path:
    """Write the 1,797 digits (UCI ML, 8x8 grey) as 96-pixel PNG files in `train/` and `test/` class folders.

    They are drawn dark on white and enlarged with bicubic resampling, as a scan of a form would show them.
    """
    target = cache / "digits"
    if target.is_dir():
        return target
    partial = cache / "digits.partial"
    shutil.rmtree(partial, ignore_errors=True)
    images, labels = load_digits(return_X_y=True)
    split = np.full(len(labels), "train")
    _, held_out = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    split[held_out] = "test"
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        folder = partial / split[index] / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        _draw(pixels).save(folder / f"{index:04d}.png")
    partial.rename(target)
    return target


def _draw(pixels: np.ndarray) -> Image.Image:
    grey = (255 - pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey, "L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def write_samples(cache: Path, target: Path) -> tuple[Path, Path]:
    """Two images to try a digits guard with: a test digit (in distribution) and a flower (out of distribution).

    The flower is scikit-learn's sample photo (by dany13, CC BY).
    """
    target.mkdir(parents=True, exist_ok=True)
    inside, outside = target / "in_distribution.png", target / "out_of_distribution.jpg"
    shutil.copyfile(sorted((write_digits(cache) / "test" / "three").iterdir())[0], inside)
    Image.fromarray(load_sample_image("flower.jpg")).save(outside, quality=90)
    return inside, outside
