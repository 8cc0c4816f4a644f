from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from oodguard.core.errors import QualityError
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Outputs
from oodguard.export.fuse import FusedGuard
from oodguard.export.graph import run_graph, session, to_onnx
from oodguard.export.parity import compare, require, require_distances
from oodguard.export.rounding import MOST, TOLERANCE, Allowed, allowed_by_rounding
from oodguard.training.run import Run, load_run


@pytest.fixture(scope="module")
def images(bundle: Path) -> npt.NDArray[np.uint8]:
    manifest = load_manifest(bundle)
    return np.stack([load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden])


def steep(run: Run, images: npt.NDArray[np.uint8], factor: float) -> Run:
    """The same guard with so much narrower classes, and the first image in the middle of one of them."""
    heads = copy.deepcopy(run.heads)
    with torch.no_grad():
        q, _ = heads.density.coordinates(run.rows(images[:1]))
        heads.density.whitening.mul_(factor)
        heads.density.class_means.copy_((q @ heads.density.whitening).expand_as(heads.density.class_means))
    return replace(run, heads=heads)


def by_torch(run: Run, images: npt.NDArray[np.uint8]) -> Outputs:
    probabilities, scores = run.predict(images)
    return Outputs(probabilities=probabilities, scores=scores)


class Wrong(nn.Module):
    """A tail whose features are off by a share of their length, each in another direction."""

    def __init__(self, tail: nn.Module, share: float) -> None:
        super().__init__()
        self.tail, self.share = tail, share

    def forward(self, activations: Tensor) -> Tensor:
        found: Tensor = self.tail(activations).flatten(1)
        waves = torch.sin(torch.arange(found.shape[1]) * 12.9898 + 1e4 * found)
        return found + self.share * found.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(waves)


def test_flat_scores_get_no_more_than_the_tolerance(run: Path, images: npt.NDArray[np.uint8]) -> None:
    assert allowed_by_rounding(load_run(run), images) == Allowed()


def test_a_steep_score_gets_what_rounding_moves_it_by_and_no_other_does(
    run: Path, images: npt.NDArray[np.uint8]
) -> None:
    guard = steep(load_run(run), images, 100.0)
    allowed = allowed_by_rounding(guard, images)
    assert set(allowed.scores) == {ScoreName.MAHALANOBIS}
    assert TOLERANCE < allowed.scores[ScoreName.MAHALANOBIS] < MOST
    assert allowed == allowed_by_rounding(guard, images)
    graph = to_onnx(FusedGuard(guard).eval(), guard.record.preprocessing, metadata={})
    expected, found = by_torch(guard, images), run_graph(session(graph), images)
    parity = compare(guard.record.calibration, expected, found, allowed=allowed)
    require(parity)
    assert parity.allowed(ScoreName.MAHALANOBIS) == allowed.scores[ScoreName.MAHALANOBIS]
    assert parity.allowed(ScoreName.KNN) == TOLERANCE
    require_distances(guard.distances(images), found, allowed=allowed.distances)


def test_a_guard_whose_digits_are_lost_in_rounding_is_refused(run: Path, images: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(QualityError, match=r"rounding alone moves the guard's mahalanobis by .* train it with other"):
        allowed_by_rounding(steep(load_run(run), images, 1e6), images)


@pytest.mark.parametrize("factor", [1.0, 10.0, 100.0])
def test_answers_of_another_network_are_refused_however_steep_the_scores_are(
    run: Path, images: npt.NDArray[np.uint8], factor: float
) -> None:
    guard = steep(load_run(run), images, factor)
    allowed = allowed_by_rounding(guard, images)
    expected = by_torch(guard, images)
    found = by_torch(replace(guard, tail=Wrong(guard.tail, 5e-4)), images)
    with pytest.raises(QualityError, match="nothing was exported"):
        require(compare(guard.record.calibration, expected, found, allowed=allowed))
