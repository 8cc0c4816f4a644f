"""Augmented views: a seeded function of the image, its identity and the view's number, so that views can be cached."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageEnhance

from oodguard.core.preprocessing import FILTERS, MAX_SIDE, Pixels, Preprocessing, to_pixels

AUGMENTATION = "crop.35-1,flip,jitter.3/1"
MIN_AREA = 0.35
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.3


def augmented_pixels(image: Image.Image, preprocessing: Preprocessing, *, identity: str, view: int) -> Pixels:
    """View number `view` (from 1) of an image: random resized crop, flip, brightness, contrast and colour.

    The same identity (SHA-256 of the bytes) and view give the same pixels in every run.
    """
    rng = random.Random(f"{identity}/{view}/{AUGMENTATION}")
    height, width = preprocessing.size
    if preprocessing.fit == "pad":
        # A view of a picture that is served with bars has bars, too: it is taken of the padded one, at twice the size.
        image = Image.fromarray(to_pixels(image, _doubled(preprocessing)))
    # Served pictures are distorted by none or, squashed, by their own aspect; views by up to `ASPECT` more.
    natural = image.width / image.height if preprocessing.fit == "squash" else width / height
    box = _crop_box(image.size, rng, natural=natural)
    pixels = image.resize((width, height), FILTERS[preprocessing.interpolation], box=box)
    if rng.random() < 0.5:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pixels = enhance(pixels).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    return np.asarray(pixels, dtype=np.uint8)


def _doubled(preprocessing: Preprocessing) -> Preprocessing:
    height, width = (min(2 * side, MAX_SIDE) for side in preprocessing.size)
    return preprocessing.model_copy(update={"resize": height, "crop": height, "width": width, "resize_width": None})


def _crop_box(size: tuple[int, int], rng: random.Random, *, natural: float) -> tuple[int, int, int, int]:
    """A random part of an image, of an aspect (width / height) around `natural`."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(MIN_AREA, 1.0)
        aspect = natural * math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = max(1, min(width, round(height * natural))), max(1, min(height, round(width / natural)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
