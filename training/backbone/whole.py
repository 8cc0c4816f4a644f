"""Fine-tuning the whole backbone, from images.

Every epoch sees each photo in a view of its own: a random crop, flip and colour change as everywhere (`augment.py`),
then TrivialAugment or RandAugment and random erasing for each image, then mixup or CutMix for the batch. What is kept
is the exponential moving average of the weights over the steps.

The loss is that of the last stage alone (`tuning.py`), with z0 the feature of the network before fine-tuning for the
very same image. That takes a second forward pass of every image, since no view comes twice; `retain` 0 saves it. The
network serves in the end as a frozen one would: as a trunk without a tail.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.core.preprocessing import open_image
from oodguard.training.backbone.augment import AUGMENTATION, augmented_pixels
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.backbone.network import Backbone, pixel_network, weights_digest
from oodguard.training.backbone.timm_loader import timm, transforms
from oodguard.training.backbone.tuning import CONSTANTS, TuningObjective, tuning_schedule
from oodguard.training.loop import fit
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo
from oodguard.training.unfinished import Progress, Unfinished

# Batches that are decoded ahead of the one that trains.
AHEAD = 3
RAND_OPERATIONS = 2
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WholeResult:
    """The tuned backbone, and the loss of each epoch."""

    backbone: Backbone
    losses: tuple[float, ...]


def tune_whole(
    backbone: Backbone,
    photos: Sequence[Photo],
    targets: Tensor,
    options: TrainOptions,
    *,
    classes: int,
    compute: Fabric,
    progress: Report | None = None,
    unfinished: Unfinished | None = None,
) -> WholeResult:
    """Train all of a backbone without a tail on photos with classes `[N]`; the given one stays as it is.

    AdamW, one cycle with a warm-up and a cosine, cross-entropy with label smoothing. The same options, photos and
    machine give the same weights. unfinished: where an interrupted training goes on; None: nowhere. Raises
    `QualityError` on divergence.
    """
    torch.manual_seed(options.seed)
    losses: list[float] = []
    with ThreadPoolExecutor(options.threads or None) as pool:
        views = PhotoViews(photos, backbone, seed=options.seed, pool=pool)
        objective = WholeObjective(backbone, views, targets, options, classes=classes, progress=progress)
        fit(
            compute,
            objective,
            tuning_schedule(options),
            count=len(photos),
            what="fine-tuning",
            remedy="lower --fine-tune-lr",
            progress=lambda epoch: losses.append(epoch.loss),
            kept=None if unfinished is None else _kept(unfinished, compute, backbone, photos, targets, options),
        )
    trunk = objective.averaged.module.cpu().eval().requires_grad_(False)
    tuned = replace(backbone, trunk=trunk, tuned_sha256=weights_digest(trunk))
    return WholeResult(backbone=tuned, losses=tuple(losses))


def _kept(
    unfinished: Unfinished,
    compute: Fabric,
    backbone: Backbone,
    photos: Sequence[Photo],
    targets: Tensor,
    options: TrainOptions,
) -> Progress:
    """The progress of a training, by everything that decides its result."""
    said = {
        "options": options.of_fine_tuning(),
        "constants": [*CONSTANTS, RAND_OPERATIONS, AUGMENTATION],
        "backbone": [backbone.name, backbone.weights_sha256, backbone.preprocessing.model_dump()],
        "photos": [photo.sha256 for photo in photos],
    }
    return unfinished.training(compute, said, (targets.numpy(),))


@dataclass
class PhotoViews:
    """Random views of photos as uint8 images, decoded a few batches ahead by a pool of threads.

    A view is a function of the photo, the seed and the epoch, however many threads or processes there are.
    """

    photos: Sequence[Photo]
    backbone: Backbone
    seed: int
    pool: ThreadPoolExecutor

    def batches(self, epoch: int, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """uint8 images `[B, H, W, 3]` of each batch of `rows`, in their order."""
        waiting: deque[list[Future[np.ndarray]]] = deque()
        for ahead in range(len(rows) + AHEAD):
            if ahead < len(rows):
                waiting.append([self.pool.submit(self._view, int(row), epoch) for row in rows[ahead]])
            if ahead >= AHEAD:
                yield torch.from_numpy(np.stack([one.result() for one in waiting.popleft()]))

    def _view(self, row: int, epoch: int) -> np.ndarray:
        photo, preprocessing = self.photos[row], self.backbone.preprocessing
        image = open_image(photo.path.read_bytes(), TRAINING_LIMITS, shrink_for=preprocessing)
        return augmented_pixels(image, preprocessing, identity=f"{photo.sha256}/{self.seed}", view=1 + epoch)


class WholeObjective(TuningObjective):
    """Of a copy of the whole network, over views of the photos."""

    def __init__(
        self,
        backbone: Backbone,
        views: PhotoViews,
        targets: Tensor,
        options: TrainOptions,
        *,
        classes: int,
        progress: Report | None = None,
    ) -> None:
        network = copy.deepcopy(backbone.trunk).requires_grad_(True).train()
        super().__init__(network, nn.Linear(backbone.width, classes), options)
        self.network = pixel_network(network, backbone.preprocessing)
        self.averaged = timm.utils.ModelEmaV3(network, decay=options.fine_tune_ema, use_warmup=True)
        self.averaged.requires_grad_(False)
        if self.keep is not None:
            before = copy.deepcopy(backbone.trunk).requires_grad_(False)
            self.before = pixel_network(before, backbone.preprocessing).eval()
        self._views, self._targets, self._progress = views, targets, progress
        self._each = image_changes(options)
        self._mix = batch_changes(options, classes)
        self._coming: Iterator[Tensor] = iter(())
        self._steps = self._done = self._changes = 0

    def train(self, mode: bool = True) -> WholeObjective:
        """As every module; the network before fine-tuning and the average stay in evaluation mode."""
        super().train(mode)
        self.averaged.eval()
        if self.keep is not None:
            self.before.eval()
        return self

    def upcoming(self, epoch: int, epochs: int, rows: Sequence[Tensor]) -> None:
        """Begin to decode an epoch's views."""
        self._coming = self._views.batches(epoch, rows)
        self._steps, self._done = epochs * len(rows), epoch * len(rows)

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """The next batch of the epoch, which is of `rows`."""
        where = self.head.weight.device
        shown = next(self._coming).to(where).permute(0, 3, 1, 2)
        images, labels = torch.stack([self._each(image) for image in shown]).float(), self._targets[rows].to(where)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        images = images.permute(0, 2, 3, 1)
        before = None
        if self.keep is not None:
            with torch.no_grad():
                before = self.before(images).flatten(1).float()
        loss = self.loss(self.network(images).flatten(1), labels, before)
        self._done += 1
        if self._progress:
            self._progress(f"fine-tuning the whole backbone (loss {float(loss.detach()):.3f})", self._done, self._steps)
        return loss

    def get_extra_state(self) -> dict[str, int]:
        """What an interrupted training needs beside tensors: how often the weights have changed."""
        return {"changes": self._changes}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self._changes = state["changes"]

    def stepped(self) -> None:
        """Average the weights."""
        self.averaged.update(self.tuned, step=self._changes)
        self._changes += 1


def image_changes(options: TrainOptions) -> Callable[[Tensor], Tensor]:
    """What changes one uint8 image `[3, H, W]` at random, beyond its crop, flip and colours."""
    found: list[nn.Module] = []
    if options.fine_tune_augment == "trivial":
        found.append(transforms.TrivialAugmentWide())
    elif options.fine_tune_augment == "rand":
        found.append(transforms.RandAugment(num_ops=RAND_OPERATIONS))
    if options.fine_tune_erasing:
        found.append(transforms.RandomErasing(p=options.fine_tune_erasing))
    return transforms.Compose(found) if found else lambda image: image


def batch_changes(options: TrainOptions, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """What mixes the images `[B, 3, H, W]` of a batch and their classes `[B]`, which become shares `[B, C]`.

    Mixup or CutMix, each in half of the batches where both are on.
    """
    found: list[nn.Module] = []
    if options.fine_tune_mixup:
        found.append(transforms.MixUp(alpha=options.fine_tune_mixup, num_classes=classes))
    if options.fine_tune_cutmix:
        found.append(transforms.CutMix(alpha=options.fine_tune_cutmix, num_classes=classes))
    return transforms.RandomChoice(found) if found else None
