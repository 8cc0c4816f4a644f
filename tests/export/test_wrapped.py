"""Bundles of runs around somebody else's classifier: its probabilities are its own, and everything else works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodguard.core.classifier import CLASSIFIER_FILE
from oodguard.core.manifest import GRAPH_FILE, INPUT_NAME, PROBABILITIES_NAME, Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import session
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from tests import foreign


@pytest.fixture(scope="module")
def options(photos: Path, cache: Path) -> TrainOptions:
    return TrainOptions(
        data=photos, cache=cache, views=1, epochs=15, hidden=16, calibration_fraction=0.4, tune=False, threads=1
    )


@pytest.fixture(scope="module")
def run(photos: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrapped")
    train(options, folder / "run", wrapped=foreign.wrapped(foreign.taught(foreign.plain(13), photos), photos, folder))
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "mine"
    export_bundle(run, out)
    return out


def pixels(manifest: Manifest, folder: Path) -> np.ndarray:
    return np.stack([load_pixels(path.read_bytes(), manifest.preprocessing) for path in sorted(folder.rglob("*.*g"))])


def probabilities(graph: bytes, images: np.ndarray) -> np.ndarray:
    return np.asarray(session(graph).run([PROBABILITIES_NAME], {INPUT_NAME: images})[0])


def test_probabilities_are_the_classifiers_own(run: Path, bundle: Path, photos: Path, strangers: Path) -> None:
    manifest = load_manifest(bundle)
    assert manifest.classifier is not None
    assert manifest.classifier.uncovered == ("rust", "teal")
    # Golden images and the 45 test photos.
    assert manifest.parity.own_images == len(manifest.golden) + 45
    own, fused = ((run / CLASSIFIER_FILE).read_bytes(), (bundle / GRAPH_FILE).read_bytes())
    for folder in (photos / "test", strangers):
        images = pixels(manifest, folder)
        for size in (1, 8):
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                assert probabilities(fused, batch).tobytes() == probabilities(own, batch).tobytes()
