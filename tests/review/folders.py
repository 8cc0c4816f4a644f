"""Folders of flagged pictures for tests: real JPEG files, each with its sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from oodguard.core.answers import FlaggedSample, ModelRef
from oodguard.core.explanation import Explanation
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import ScoreVerdict

TIME = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def put(
    folder: Path,
    name: str,
    *,
    label: str = "plum",
    score: float = 9.0,
    probability: float = 0.5,
    knn: float = 99.0,
    minutes: int = 0,
    picture: int | bytes | Image.Image = 0,
    explanation: Explanation | None = None,
) -> Path:
    """One flagged picture; `picture`: its encoded bytes, an image, or the seed of noise."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    elif isinstance(picture, Image.Image):
        picture.save(path, quality=90)
    else:
        noise = np.random.default_rng(picture).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC).save(path, quality=90)
    sample = FlaggedSample(
        time=TIME + timedelta(minutes=minutes),
        model=ModelRef(name="discs", version="7"),
        accept=0.95,
        label=label,
        probability=probability,
        ood_score=score,
        threshold=8.0,
        percentile=99.5,
        scores={ScoreName.KNN: ScoreVerdict(value=2.0, threshold=1.0, percentile=knn, is_ood=True)},
        explanation=explanation,
    )
    path.with_suffix(".json").write_text(sample.model_dump_json(), encoding="utf-8")
    return path


def put_all(folder: Path, scores: Mapping[str, float]) -> Path:
    """Pictures by their name and OOD score, each another one."""
    for seed, (name, score) in enumerate(scores.items()):
        put(folder, name, score=score, picture=seed)
    return folder
