from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oodguard.bench.methods.catalogue import HEADLINES, METHODS
from oodguard.bench.methods.method import Detector, outputs
from oodguard.bench.problem import LearningProblem
from oodguard.bench.spaces.pixels import PADDING, PixelSpace
from oodguard.training.compute import start_compute
from oodguard.training.loop import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

SCRATCH = Schedule(epochs=3, batch=16, lr=0.1, weight_decay=5e-4, optimiser="sgd")
TUNE = Schedule(epochs=1, batch=16, lr=0.01, weight_decay=5e-4, optimiser="sgd")
SPACE = PixelSpace(
    name="wrn-10-1",
    side=16,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    scratch=SCRATCH,
    heads=TUNE,
    fine_tune=TUNE,
)


def coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes by colour, with noise."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    images = 60 + 40 * torch.randn(count, 3, 16, 16, generator=generator)
    images[torch.arange(count), targets] += 110
    return images.clamp(0, 255).byte(), targets


@pytest.fixture(scope="module")
def problem() -> LearningProblem:
    images, targets = coloured(64, 0)
    calibration, calibration_targets = coloured(24, 1)
    outliers = torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(2)).byte()
    return LearningProblem(
        inputs=images.unsqueeze(0),
        targets=targets,
        calibration=calibration,
        calibration_targets=calibration_targets,
        outliers=outliers,
        classes=3,
        space=SPACE,
        seed=0,
    )


@pytest.fixture(scope="module")
def single(problem: LearningProblem) -> Detector:
    torch.manual_seed(0)
    detector = METHODS["single"].build(problem)
    METHODS["single"].train(detector, problem, compute=start_compute(1), start=None, progress=None)
    detector.eval().calibrate(problem)
    return detector


def test_plain_pixels_are_normalised_by_channel() -> None:
    image = torch.tensor([102, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    found = SPACE.plain(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.0, -2.0, 4 / 3]))


def test_every_drawn_image_is_a_window_of_its_padded_self_or_the_mirror_of_one() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (2, 6, 3, 16, 16)).byte()
    rows = torch.tensor([4, 1, 1, 5] * 8)
    drawn = SPACE.draw(images, rows)
    assert drawn.shape == (32, 3, 16, 16)
    seen: set[tuple[int, int, int, bool]] = set()
    for view, row in zip(drawn, rows.tolist(), strict=True):
        for source in range(2):
            wide = torch.nn.functional.pad(images[source, row], (PADDING,) * 4)
            for top in range(2 * PADDING + 1):
                for left in range(2 * PADDING + 1):
                    window = wide[:, top : top + 16, left : left + 16]
                    for mirrored in (False, True):
                        if torch.equal(view, SPACE.plain((window.flip(-1) if mirrored else window)[None])[0]):
                            seen.add((source, top, left, mirrored))
    # Each was found, in windows of its own, of both sources, as it was and mirrored.
    assert len(seen) > 20
    assert {found[0] for found in seen} == {0, 1}
    assert {found[3] for found in seen} == {False, True}


def test_corruption_changes_images_within_the_range_of_pixels() -> None:
    torch.manual_seed(0)
    x = SPACE.plain(coloured(40, 3)[0])
    corrupted = SPACE.corrupt(x)
    assert corrupted.shape == x.shape
    assert ((corrupted - x).abs().mean((1, 2, 3)) > 0.05).all()
    black, white = SPACE.plain(torch.tensor([0, 255]).byte().view(2, 1, 1, 1).expand(2, 3, 16, 16))
    assert (corrupted >= black - 1e-5).all()
    assert (corrupted <= white + 1e-5).all()


def test_an_anchored_network_has_twice_the_channels() -> None:
    assert SPACE.network(classes=3)(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    assert SPACE.network(classes=3, anchored=True)(torch.randn(2, 6, 16, 16)).shape == (2, 3)


def test_a_classifier_learns_colours_and_gives_every_post_hoc_score(problem: LearningProblem, single: Detector) -> None:
    found = outputs(single, problem, problem.calibration)
    assert set(found.scores) == set(HEADLINES["single"])
    assert (found.log_probabilities.argmax(-1) == problem.calibration_targets).float().mean() > 0.6


# One of each kind: the rest differ in numbers only.
@pytest.mark.parametrize(
    "name", ["ldr", "two-stage", "divdis", "joint", "amp", "oe", "greg-plus", "ice", "ice-scratch", "fused"]
)
def test_methods_train_and_score(name: str, problem: LearningProblem, single: Detector) -> None:
    method = METHODS[name]
    torch.manual_seed(0)
    detector = method.build(problem)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    start = single if method.starts_from else None
    method.train(detector, problem, compute=start_compute(1), start=start, progress=None)
    detector.eval().calibrate(problem)
    after = detector.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before if key in after)
    found = outputs(detector, problem, problem.calibration[:7])
    assert found.logits.shape[1:] == (7, 3)
    torch.testing.assert_close(found.log_probabilities.exp().sum(-1), torch.ones(7), rtol=1e-4, atol=1e-4)
    assert set(HEADLINES.get(name, ())) <= set(found.scores)
    assert found.scores
    for values in found.scores.values():
        assert values.shape == (7,)
        assert torch.isfinite(values).all()
    # An image's output does not depend on the other images.
    alone = outputs(detector, problem, problem.calibration[3:4])
    torch.testing.assert_close(alone.log_probabilities[0], found.log_probabilities[3], rtol=1e-3, atol=1e-4)
    assert all(isinstance(value, float) for value in detector.diagnostics(problem).values())
