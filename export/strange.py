"""Golden images that must be flagged: pictures of nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

from oodguard.core.calibration import Calibration
from oodguard.core.golden import Golden
from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels
from oodguard.core.targets import Targets
from oodguard.export.graph import run_graph
from oodguard.training.backbone.features import TRAINING_LIMITS

MOST = 2
# How far beyond the threshold a picture must lie, so that every runtime flags it.
MARGIN = 1.25


def strange_golden(
    preprocessing: Preprocessing,
    calibration: Calibration,
    targets: Targets,
    graphs: Sequence[ort.InferenceSession],
    *,
    classes: Sequence[str],
    bundle: Path,
    folder: str,
) -> list[Golden]:
    """Up to two golden images that each of `graphs` flags beyond doubt, written to `folder` of the bundle.

    None where the guard flags none of those that are tried: that is its own weakness, and no reason to export nothing.
    """
    threshold = calibration.thresholds(targets.accept, confidence=targets.confidence).fused
    found: list[Golden] = []
    for name, picture in _pictures(preprocessing.shape):
        path = bundle / folder / f"strange-{name}.png"
        Image.fromarray(picture).save(path)
        pixels = load_pixels(path.read_bytes(), preprocessing, TRAINING_LIMITS)[None]
        outputs = [run_graph(graph, pixels) for graph in graphs]
        if len(found) < MOST and all(calibration.fused(one)[0] > MARGIN * threshold for one in outputs):
            found.append(
                Golden(
                    path=path.relative_to(bundle).as_posix(),
                    label=classes[int(outputs[0].probabilities[0].argmax())],
                    is_ood=True,
                    probabilities=tuple(outputs[0].probabilities[0].tolist()),
                    scores=tuple(outputs[0].scores[0].tolist()),
                    exact=False,
                )
            )
        else:
            path.unlink()
    return found


def _pictures(shape: tuple[int, ...]) -> Iterator[tuple[str, Pixels]]:
    """Pictures `[H, W, 3]` by name, always the same."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    yield "noise", rng.integers(0, 256, shape, dtype=np.uint8)
    stripes = np.arange(height)[:, None, None] // max(1, height // 16) % 2 * 255
    yield "stripes", np.broadcast_to(stripes, shape).astype(np.uint8)
    coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8)
    yield "squares", np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))
    yield "black", np.zeros(shape, np.uint8)
    yield "white", np.full(shape, 255, np.uint8)
