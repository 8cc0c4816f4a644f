"""Fine-tuning the backbone's last stage over cached trunk activations.

One tail is shared by all heads, so serving costs nothing more. Batch norm stays in evaluation mode (its statistics
belong to the pretraining data; small batches would spoil them), and the linear head used here is thrown away: the
guard's own heads are trained afterwards on the tuned features.

Fine-tuning for labels alone forgets what tells strange photos from known ones: the frozen feature finds them by its
density, the tuned one does not. So the tail also keeps it: a linear map K, which starts as the identity and is thrown
away too, must recover the frozen feature z0 of the same view from the tuned feature z,

    L = CE(head(z), y) + retain * mean(1 - cos(K z, z0)).

What K can recover is still in z, linearly, for the densities and heads that follow; serving costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from oodguard.training.backbone.features import Activations, batches
from oodguard.training.compute import start_compute
from oodguard.training.loop import EpochReport, Objective, Schedule, fit
from oodguard.training.options import TrainOptions
from oodguard.training.unfinished import Progress, Unfinished

HEAD_LR = 3e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.15
INFERENCE_BATCH = 64


def device() -> torch.device:
    """Where training runs: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_batch(rows: Activations) -> Tensor:
    """Cached activations as a float32 batch, in the memory layout convolutions like best."""
    tensor = torch.from_numpy(np.ascontiguousarray(rows)).to(device()).float()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _channels_last(tail: nn.Module) -> None:
    """Lay out the kernels as `to_batch` does activations; weights of other ranks have no such layout."""
    for parameter in tail.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def tail_features(tail: nn.Module, activations: Activations) -> Tensor:
    """Features `[N, D]`, float32 on the CPU, of cached activations `[N, ...]`."""
    tail = tail.to(device())
    with torch.no_grad():
        parts = [tail(to_batch(activations[rows])).flatten(1) for rows in batches(len(activations), INFERENCE_BATCH)]
    return torch.cat(parts).float().cpu()


def tune_tail(
    tail: nn.Module,
    activations: Activations,
    frozen: Tensor,
    targets: Tensor,
    options: TrainOptions,
    *,
    classes: int,
    width: int,
    compute: Fabric | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    unfinished: Unfinished | None = None,
) -> None:
    """Train `tail` in place, with a throw-away linear head, on activations `[V, N, ...]`; each image in a random view.

    frozen: the features `[V, N, D]` of the tail as it is, which are kept. AdamW, one cycle peaking at `fine_tune_lr`,
    cross-entropy with label smoothing. unfinished: where an interrupted training goes on; None: nowhere. Raises
    `QualityError` on divergence.
    """
    compute = compute or start_compute(1)
    kept = None if unfinished is None else _kept(unfinished, compute, tail, activations, frozen, targets, options)
    torch.manual_seed(options.seed)
    _channels_last(tail)
    tail.eval()
    fit(
        compute,
        TailObjective(tail, nn.Linear(width, classes), activations, frozen, targets, options),
        Schedule(
            epochs=options.tuning_epochs,
            batch=options.fine_tune_batch,
            lr=options.tuning_lr,
            weight_decay=WEIGHT_DECAY,
            shape="one-cycle",
            warm_up=WARM_UP,
        ),
        count=activations.shape[1],
        what="fine-tuning",
        remedy="lower --fine-tune-lr",
        progress=progress,
        kept=kept,
    )
    for parameter in tail.parameters():
        parameter.requires_grad_(False)


def _kept(
    unfinished: Unfinished,
    compute: Fabric,
    tail: nn.Module,
    activations: Activations,
    frozen: Tensor,
    targets: Tensor,
    options: TrainOptions,
) -> Progress:
    """The progress of a tuning, by everything that decides its result."""
    said = {
        "options": options.of_fine_tuning(),
        "constants": [HEAD_LR, WEIGHT_DECAY, WARM_UP],
        "tail": list(tail.state_dict()),
    }
    weights = (value.detach().cpu().numpy() for value in tail.state_dict().values())
    return unfinished.training(compute, said, (*weights, *activations, frozen.numpy(), targets.numpy()))


class TailObjective(Objective):
    """Cross-entropy of a linear head on the tail's features, and what they lost of the frozen ones."""

    def __init__(
        self,
        tail: nn.Module,
        head: nn.Linear,
        activations: Activations,
        frozen: Tensor,
        targets: Tensor,
        options: TrainOptions,
    ) -> None:
        super().__init__()
        self.tail = tail
        self.head = head
        self.label_smoothing = options.label_smoothing
        self.retain = options.retain
        self.keep = nn.Linear(head.in_features, head.in_features, bias=False) if options.retain else None
        if self.keep is not None:
            nn.init.eye_(self.keep.weight)
        self._data = (activations, frozen, targets)

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """Each of `rows` in one random view."""
        activations, frozen, targets = self._data
        view = torch.randint(len(activations), (len(rows),))
        features = self.tail(to_batch(activations[view.numpy(), rows.numpy()])).flatten(1)
        where = features.device
        loss = functional.cross_entropy(
            self.head(features), targets[rows].to(where), label_smoothing=self.label_smoothing
        )
        if self.keep is None:
            return loss
        kept = functional.cosine_similarity(self.keep(features).float(), frozen[view, rows].to(where))
        return loss + self.retain * (1.0 - kept).mean()

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """The tail's kernels, its vectors, the head, which starts from nothing and learns faster, and the map."""
        kernels, vectors = ([p for p in self.tail.parameters() if (p.ndim > 1) == decays] for decays in (True, False))
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
