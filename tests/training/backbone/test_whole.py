"""Fine-tuning of a whole backbone, on real image files and a small network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.network import Backbone, pixel_network, weights_digest
from oodguard.training.backbone.whole import WholeObjective, batch_changes, image_changes, tune_whole
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo
from oodguard.training.unfinished import Unfinished

CLASSES, SIDE, WIDTH = 2, 32, 12
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

pytestmark = pytest.mark.usefixtures("one_thread")


def options(**changes: object) -> TrainOptions:
    return TrainOptions.model_validate(
        {
            "data": Path("photos"),
            "fine_tune_part": "all",
            "fine_tune_epochs": 6,
            "fine_tune_lr": 0.01,
            "fine_tune_batch": 8,
            "fine_tune_ema": 0.9,
            "threads": 2,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Photo, ...]:
    """Forty pictures with upright or lying stripes, in any colour and phase."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    found = []
    for number in range(40):
        wave = np.sin(np.arange(48) * rng.uniform(0.7, 0.9) + rng.uniform(0, 6))
        stripes = np.tile(wave, (48, 1)) if number % 2 else np.tile(wave[:, None], (1, 48))
        colour = rng.uniform(60, 200, 3)
        path = folder / f"{number}.png"
        Image.fromarray((colour + 50 * stripes[..., None]).clip(0, 255).astype(np.uint8)).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        found.append(Photo(path=path, label=("lying", "upright")[number % 2], sha256=sha256))
    return tuple(found)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, WIDTH, 3, stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    return Backbone(
        kind="timm",
        name="small",
        source="random",
        weights_sha256=weights_digest(trunk),
        cut=None,
        width=WIDTH,
        preprocessing=PREPROCESSING,
        trunk=trunk,
        tail=nn.Identity(),
    )


def targets(photos: tuple[Photo, ...]) -> Tensor:
    return torch.tensor([int(photo.label == "upright") for photo in photos])


def tuned(backbone: Backbone, photos: tuple[Photo, ...], **changes: object) -> tuple[Backbone, tuple[float, ...]]:
    found = tune_whole(backbone, photos, targets(photos), options(**changes), classes=CLASSES, compute=start_compute(1))
    return found.backbone, found.losses


def features(backbone: Backbone, photos: tuple[Photo, ...]) -> Tensor:
    pixels = np.stack([np.asarray(Image.open(photo.path).resize((SIDE, SIDE))) for photo in photos])
    with torch.no_grad():
        found: Tensor = pixel_network(backbone.trunk, PREPROCESSING)(torch.from_numpy(pixels))
        return found


def separation(backbone: Backbone, photos: tuple[Photo, ...]) -> float:
    """How far apart the classes' means are, in deviations along the line between them."""
    z, y = features(backbone, photos), targets(photos)
    line = nn.functional.normalize(z[y == 1].mean(0) - z[y == 0].mean(0), dim=0)
    along = z @ line
    spread = (along[y == 1].std() + along[y == 0].std()) / 2
    return float((along[y == 1].mean() - along[y == 0].mean()) / spread)


def test_all_layers_learn_the_labels_and_the_given_network_stays(backbone: Backbone, photos: tuple[Photo, ...]) -> None:
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    found, losses = tuned(backbone, photos, retain=0.5, fine_tune_epochs=15, fine_tune_augment="crops")
    assert losses[-1] < losses[0]
    assert separation(found, photos) > 2 * separation(backbone, photos)
    state = found.trunk.state_dict()
    for name in ("0.weight", "1.running_mean", "3.weight", "4.bias"):
        assert not torch.equal(state[name], before[name]), f"{name} did not learn"
    for name, value in backbone.trunk.state_dict().items():
        assert torch.equal(value, before[name])
    assert found.tuned_sha256 == weights_digest(found.trunk) != backbone.weights_sha256
    assert found.weights_sha256 == backbone.weights_sha256
    assert not found.trunk.training
    assert not any(parameter.requires_grad for parameter in found.trunk.parameters())


def test_the_same_seed_gives_the_same_weights_on_any_number_of_threads(
    backbone: Backbone, photos: tuple[Photo, ...]
) -> None:
    def digest(**changes: object) -> str | None:
        with cpu_threads(1):
            return tuned(backbone, photos, fine_tune_epochs=2, **changes)[0].tuned_sha256

    assert digest(threads=1) == digest(threads=3)
    assert digest(seed=1) != digest(seed=2)


def test_accumulated_steps_are_one_larger_step(backbone: Backbone, photos: tuple[Photo, ...]) -> None:
    """With gradients alone: batch norm sees the small batches, so the network here has none."""
    trunk = nn.Sequential(nn.Conv2d(3, WIDTH, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    plain = Backbone(**{**vars(backbone), "trunk": trunk})
    same = {"fine_tune_augment": "crops", "fine_tune_mixup": 0, "fine_tune_cutmix": 0, "fine_tune_erasing": 0}
    whole, _ = tuned(plain, photos, fine_tune_batch=20, fine_tune_epochs=2, **same)
    parts, _ = tuned(plain, photos, fine_tune_batch=5, fine_tune_accumulate=4, fine_tune_epochs=2, **same)
    for name, value in whole.trunk.state_dict().items():
        torch.testing.assert_close(parts.trunk.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("retain", [0.0, 3.0])
def test_the_loss_by_hand(backbone: Backbone, photos: tuple[Photo, ...], retain: float) -> None:
    y = targets(photos)
    views = FixedViews(photos)
    given = options(
        retain=retain, label_smoothing=0.0, fine_tune_augment="crops", fine_tune_mixup=0, fine_tune_cutmix=0,
        fine_tune_erasing=0,
    )  # fmt: skip
    objective = WholeObjective(backbone, views, y, given, classes=CLASSES)  # type: ignore[arg-type]
    objective.train()
    assert not objective.averaged.training
    # Batch norm in evaluation mode, so that the features are those of one image alone.
    objective.network.eval()
    rows = torch.arange(10)
    objective.upcoming(0, 1, [rows])
    z = features(backbone, photos[:10])
    expected = nn.functional.cross_entropy(objective.head(z), y[rows])
    # The network has not moved yet, and the map starts as the identity: nothing is lost.
    torch.testing.assert_close(objective(rows, 0), expected, rtol=1e-4, atol=1e-5)
    if retain:
        assert objective.keep is not None
        turned = torch.eye(WIDTH).roll(1, 0)
        objective.keep.weight.data.copy_(turned)
        objective.upcoming(0, 1, [rows])
        lost = (1 - nn.functional.cosine_similarity(z @ turned.T, z)).mean()
        torch.testing.assert_close(objective(rows, 0), expected + retain * lost, rtol=1e-4, atol=1e-4)


class FixedViews:
    """The photos themselves as their views."""

    def __init__(self, photos: tuple[Photo, ...]) -> None:
        self.pixels = np.stack([np.asarray(Image.open(photo.path).resize((SIDE, SIDE))) for photo in photos])

    def batches(self, epoch: int, rows: list[Tensor]) -> object:
        return iter([torch.from_numpy(self.pixels[each.numpy()]) for each in rows])


def test_mixing_gives_shares_of_classes() -> None:
    torch.manual_seed(0)
    mix = batch_changes(options(), CLASSES)
    assert mix is not None
    images, labels = torch.rand(8, 3, SIDE, SIDE), torch.arange(8) % CLASSES
    mixed, shares = mix(images, labels)
    assert shares.shape == (8, CLASSES)
    torch.testing.assert_close(shares.sum(1), torch.ones(8))
    assert not torch.equal(mixed, images)
    assert batch_changes(options(fine_tune_mixup=0, fine_tune_cutmix=0), CLASSES) is None


@pytest.mark.parametrize("augment", ["trivial", "rand"])
def test_images_change_and_keep_their_type(augment: str) -> None:
    torch.manual_seed(0)
    change: Callable[[Tensor], Tensor] = image_changes(options(fine_tune_augment=augment))
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    found = [change(image) for _ in range(12)]
    assert {one.dtype for one in found} == {torch.uint8}
    assert {one.shape for one in found} == {image.shape}
    assert sum(not torch.equal(one, image) for one in found) >= 8
    still = image_changes(options(fine_tune_augment="crops", fine_tune_erasing=0))
    assert torch.equal(still(image), image)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fine_tune": False}, "--no-fine-tune and --fine-tune-part all exclude each other"),
        ({"cross_fit": 3}, "--cross-fit tunes the last stage for each part anew"),
        ({"fine_tune_part": "last", "fine_tune_mixup": 0.4}, "--fine-tune-mixup belongs to --fine-tune-part all"),
    ],
)
def test_options_that_exclude_each_other(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainOptions.model_validate({"data": Path("photos"), "fine_tune_part": "all", **changes})


def test_epochs_and_rate_follow_the_part() -> None:
    last, whole = (TrainOptions(data=Path("photos"), fine_tune_part=part) for part in ("last", "all"))  # type: ignore[arg-type]
    assert (last.tuning_epochs, last.tuning_lr) == (6, 1e-3)
    assert (whole.tuning_epochs, whole.tuning_lr) == (20, 3e-4)
    given = TrainOptions(data=Path("photos"), fine_tune_epochs=9, fine_tune_lr=0.02)
    assert (given.tuning_epochs, given.tuning_lr) == (9, 0.02)


def test_an_interrupted_training_goes_on_and_gives_the_same_bits(
    backbone: Backbone, photos: tuple[Photo, ...], tmp_path: Path
) -> None:
    chosen = options(fine_tune_epochs=4, fine_tune_mixup=0.2, fine_tune_erasing=0.2)
    unfinished, compute = Unfinished(tmp_path), start_compute(1)
    steps = 0

    def interrupt(_: str, done: int, total: int) -> None:
        if done > total // 2 + 1:
            raise KeyboardInterrupt

    def count(_: str, done: int, total: int) -> None:
        nonlocal steps
        steps += 1

    labels = targets(photos)
    whole = tune_whole(backbone, photos, labels, chosen, classes=CLASSES, compute=compute, progress=count)
    every, steps = steps, 0
    with pytest.raises(KeyboardInterrupt):
        tune_whole(
            *(backbone, photos, labels, chosen),
            classes=CLASSES, compute=compute, progress=interrupt, unfinished=unfinished,
        )  # fmt: skip
    again = tune_whole(
        backbone, photos, labels, chosen, classes=CLASSES, compute=compute, progress=count, unfinished=unfinished
    )
    assert steps == every // 2
    assert again.losses == whole.losses
    assert again.backbone.tuned_sha256 == whole.backbone.tuned_sha256
