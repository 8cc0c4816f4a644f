"""Covariate shift: four corruptions of the pixels a network is shown, at five severities.

Parameters are those of ImageNet-C (Hendrycks & Dietterich 2019) for 224-pixel images: standard deviation of Gaussian
noise on a scale of 0 to 1, radius of Gaussian blur in pixels, JPEG quality, and the increase of the HSV value.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from oodguard.core.preprocessing import Pixels

Corruption = Literal["noise", "blur", "jpeg", "brightness"]

SEVERITIES: dict[Corruption, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
}


@dataclass(frozen=True)
class Corrupted:
    """One corruption at a severity of 1 to 5, as `Extractor` takes it."""

    kind: Corruption
    severity: int

    @property
    def name(self) -> str:
        """Such as `noise 3`."""
        return f"{self.kind} {self.severity}"

    def __call__(self, pixels: Pixels, identity: str) -> Pixels:
        """uint8 `[H, W, 3]`; noise is seeded by the image's identity."""
        amount = SEVERITIES[self.kind][self.severity - 1]
        if self.kind == "noise":
            rng = np.random.default_rng(zlib.crc32(f"{identity}/{self.name}".encode()))
            noisy = pixels / 255.0 + rng.normal(0.0, amount, pixels.shape)
            return (np.clip(noisy, 0.0, 1.0) * 255.0).astype(np.uint8)
        image = Image.fromarray(pixels)
        if self.kind == "blur":
            return np.asarray(image.filter(ImageFilter.GaussianBlur(amount)))
        if self.kind == "jpeg":
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(amount))
            return np.asarray(Image.open(buffer))
        value = np.asarray(image.convert("HSV")).astype(np.int16)
        value[..., 2] += round(255 * amount)
        return np.asarray(Image.fromarray(np.clip(value, 0, 255).astype(np.uint8), "HSV").convert("RGB"))


def corruptions(severities: tuple[int, ...]) -> tuple[Corrupted, ...]:
    """All kinds at the given severities."""
    return tuple(Corrupted(kind, severity) for kind in SEVERITIES for severity in severities)
