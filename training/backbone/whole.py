"""Fine-tuning the whole backbone, from images.

Every epoch sees each photo in a view of its own: a random crop, flip and colour change as everywhere (`augment.py`),
then TrivialAugment or RandAugment and random erasing for each image, then mixup or CutMix for the batch. What is kept
is the exponential moving average of the weights over the steps.

As for the last stage alone (`tail.py`), fine-tuning for labels forgets what tells strange photos from known ones. The
same term keeps it: with z0 the feature of the network before fine-tuning for the very same image, a linear map K that
is thrown away afterwards, and a linear head that is thrown away too,

    L = CE(head(z), y) + retain * mean(1 - cos(K z, z0)).

z0 takes a second forward pass of every image, since no view comes twice; `retain` 0 saves it. The network serves in the
end as a frozen one would: as a trunk without a tail.
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
from torch.nn import functional

from oodguard.training.backbone.augment import AUGMENTATION
from oodguard.training.backbone.features import photo_view
from oodguard.training.backbone.network import Backbone, pixel_network, weights_digest
from oodguard.training.backbone.tail import HEAD_LR, WEIGHT_DECAY
from oodguard.training.backbone.timm_loader import timm, transforms
from oodguard.training.loop import Objective, Schedule, fit
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo
from oodguard.training.unfinished import Progress, Unfinished

WARM_UP = 0.15
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
            Schedule(
                epochs=options.tuning_epochs,
                batch=options.fine_tune_batch,
                lr=options.tuning_lr,
                weight_decay=WEIGHT_DECAY,
                shape="one-cycle",
                warm_up=WARM_UP,
                accumulate=options.fine_tune_accumulate,
            ),
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
        "constants": [HEAD_LR, WEIGHT_DECAY, WARM_UP, RAND_OPERATIONS, AUGMENTATION],
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
        photo = self.photos[row]
        return photo_view(photo, self.backbone.preprocessing, view=1 + epoch, identity=f"{photo.sha256}/{self.seed}")


class WholeObjective(Objective):
    """Cross-entropy of a linear head on the network's features, and what they lost of its earlier ones."""

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
        super().__init__()
        network = copy.deepcopy(backbone.trunk).requires_grad_(True).train()
        self.network = pixel_network(network, backbone.preprocessing)
        self.head = nn.Linear(backbone.width, classes)
        self.averaged = timm.utils.ModelEmaV3(network, decay=options.fine_tune_ema, use_warmup=True)
        self.averaged.requires_grad_(False)
        self.keep: nn.Linear | None = None
        if options.retain:
            self.keep = nn.Linear(backbone.width, backbone.width, bias=False)
            nn.init.eye_(self.keep.weight)
            before = copy.deepcopy(backbone.trunk).requires_grad_(False)
            self.before = pixel_network(before, backbone.preprocessing).eval()
        self._trained = network
        self._views, self._targets, self._options = views, targets, options
        self._classes, self._progress = classes, progress
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
        shown = torch.stack([self._each(image) for image in shown])
        labels = functional.one_hot(self._targets[rows].to(where), self._classes).float()
        images = shown.float()
        if self._mix is not None:
            images, labels = self._mix(images, self._targets[rows].to(where))
        images = images.permute(0, 2, 3, 1)
        features = self.network(images).flatten(1)
        smoothing = self._options.label_smoothing
        loss: Tensor = functional.cross_entropy(self.head(features), labels, label_smoothing=smoothing)
        if self.keep is not None:
            with torch.no_grad():
                frozen = self.before(images).flatten(1).float()
            kept = functional.cosine_similarity(self.keep(features).float(), frozen)
            loss = loss + self._options.retain * (1.0 - kept).mean()
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
        self.averaged.update(self._trained, step=self._changes)
        self._changes += 1

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """The network's kernels, its vectors, the head, which starts from nothing and learns faster, and the map."""
        kernels, vectors = (
            [p for p in self._trained.parameters() if (p.ndim > 1) == decays] for decays in (True, False)
        )
        groups: list[dict[str, object]] = [
            {"params": kernels, "weight_decay": schedule.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
            {"params": list(self.head.parameters()), "weight_decay": schedule.weight_decay},
        ]
        if self.keep is not None:
            groups.append({"params": list(self.keep.parameters()), "weight_decay": 0.0})
        return groups

    def peaks(self, schedule: Schedule) -> list[float]:
        """The head's is `HEAD_LR`."""
        return [schedule.lr, schedule.lr, HEAD_LR, schedule.lr][: 3 if self.keep is None else 4]


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
