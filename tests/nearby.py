"""The training photos nearest to an image, found by NumPy without the graph: what every explanation must name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodguard.core.explanation import Explanation
from oodguard.core.preprocessing import load_pixels
from oodguard.training.backbone.network import Normalised
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.run import Run


@dataclass(frozen=True)
class Nearby:
    """A run, and the photos that it was trained on."""

    run: Run
    photos: Photos

    @property
    def own(self) -> list[Photo]:
        """The photo of each row of the bank."""
        by_hash = {photo.sha256: photo for photo in self.photos.pool}
        return [by_hash[sha256] for sha256 in self.run.bank.sha256]

    def distances(self, images: Sequence[bytes]) -> np.ndarray:
        """Every distance of images to the bank, `[B, N]`, in float64."""
        record, density = self.run.record, self.run.heads.density
        pixels = np.stack([load_pixels(image, record.preprocessing) for image in images])
        with torch.no_grad():
            trunk = Normalised(self.run.trunk, record.preprocessing).eval()
            features = self.run.tail(trunk(torch.from_numpy(pixels))).flatten(1).double().numpy()
        unit = features / np.linalg.norm(features, axis=1, keepdims=True) - density.mean.double().numpy()
        q = unit @ density.projection.double().numpy()
        rest = np.sqrt(np.maximum((unit**2).sum(1) - (q**2).sum(1), 0.0))
        bank, bank_rest = density.bank.double().numpy(), np.sqrt(density.bank_residual.double().numpy())
        squared = ((q[:, None] - bank[None]) ** 2).sum(-1) + (rest[:, None] - bank_rest[None]) ** 2
        return np.asarray(np.sqrt(squared))

    def require(self, images: Sequence[bytes], found: Sequence[Any]) -> None:
        """Assert that `found` explanations (records, or JSON's objects) name the three nearest photos of each image."""
        for row, explanation in zip(self.distances(images), found, strict=True):
            named = Explanation.model_validate(explanation, from_attributes=True).neighbours
            nearest = np.argsort(row, kind="stable")[:3]
            assert [one.sha256 for one in named] == [self.run.bank.sha256[place] for place in nearest]
            assert [one.label for one in named] == [self.own[place].label for place in nearest]
            assert [self.run.record.classes[one.class_index] for one in named] == [one.label for one in named]
            assert [one.distance for one in named] == pytest.approx(row[nearest], abs=2e-3)

    def files(self) -> list[Path]:
        """The files of the bank's photos, row by row."""
        return [photo.path for photo in self.own]
