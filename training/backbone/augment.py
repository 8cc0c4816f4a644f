"""Augmented views: a seeded function of the image, its identity and the view's number, so that views can be cached."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageEnhance

from oodguard.core.preprocessing import Pixels, Preprocessing

AUGMENTATION = "crop.35-1,flip,jitter.3/1"
MIN_AREA = 0.35
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.3


def augmented_pixels(image: Image.Image, preprocessing: Preprocessing, *, identity: str, view: int) -> Pixels:
    """View number `view` (from 1) of an image: random resized crop, flip, brightness, contrast and colour.

    The same identity (SHA-256 of the bytes) and view give the same pixels in every run.
    """
    rng = random.Random(f"{identity}/{view}/{AUGMENTATION}")
    size = (preprocessing.crop, preprocessing.crop)
    resample = Image.Resampling.BILINEAR if preprocessing.interpolation == "bilinear" else Image.Resampling.BICUBIC
    pixels = image.resize(size, resample, box=_crop_box(image.size, rng))
    if rng.random() < 0.5:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pixels = enhance(pixels).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    return np.asarray(pixels, dtype=np.uint8)


def _crop_box(size: tuple[int, int], rng: random.Random) -> tuple[int, int, int, int]:
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(MIN_AREA, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
