"""A bundle made by hand, without a network: what core/ reads, judges and refuses needs no training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.core.calibration import Calibration
from oodguard.core.golden import Golden
from oodguard.core.manifest import (
    GRAPH_FILE,
    INPUT_NAME,
    MANIFEST_FILE,
    PROBABILITIES_NAME,
    SCORES_NAME,
    FileRef,
    Manifest,
    Parity,
    ScoreEntry,
    TensorSpec,
)
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.provenance import Provenance
from oodguard.core.scores import SCORES

CLASSES = ("amber", "jade", "plum")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest, golden images, and bytes in the graph's place."""
    folder = tmp_path_factory.mktemp("bundles") / "discs"
    (folder / "golden").mkdir(parents=True)
    (folder / GRAPH_FILE).write_bytes(b"a graph")
    for index in range(2):
        Image.new("RGB", (64, 64), (90 * index, 40, 200)).save(folder / "golden" / f"{index:02d}.png")
    rng = np.random.default_rng(0)
    calibration = Calibration.fit({spec.name: rng.gamma(2.0, size=99) for spec in SCORES})
    paths = [GRAPH_FILE, "golden/00.png", "golden/01.png"]
    manifest = Manifest(
        name="discs",
        version="7",
        input=TensorSpec(name=INPUT_NAME, dtype="uint8", shape=("batch", 64, 64, 3)),
        outputs=(
            TensorSpec(name=PROBABILITIES_NAME, dtype="float32", shape=("batch", len(CLASSES))),
            TensorSpec(name=SCORES_NAME, dtype="float32", shape=("batch", len(SCORES))),
        ),
        preprocessing=Preprocessing(resize=64, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        classes=CLASSES,
        scores=tuple(ScoreEntry(name=s.name, family=s.family, title=s.title, meaning=s.meaning) for s in SCORES),
        calibration=calibration,
        provenance=Provenance(
            oodguard="0.2.0",
            created="2026-01-02T03:04:05+00:00",
            seed=0,
            backbone="net",
            weights_source="random",
            weights_sha256="0" * 64,
            data_fingerprint="1" * 64,
            train_images=300,
            calibration_images=99,
            versions={},
            options={},
            metrics={},
        ),
        parity=Parity(
            images=2,
            tolerance=1e-4,
            max_probability_error=0.0,
            max_score_error={},
            labels_identical=True,
            verdicts_identical=True,
        ),
        golden=tuple(
            Golden(path=path, label="jade", is_ood=False, probabilities=(0.2, 0.7, 0.1), scores=(1.0,) * len(SCORES))
            for path in paths[1:]
        ),
        files=tuple(
            FileRef(
                path=path,
                bytes=(folder / path).stat().st_size,
                sha256=hashlib.sha256((folder / path).read_bytes()).hexdigest(),
            )
            for path in paths
        ),
    )
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return folder
