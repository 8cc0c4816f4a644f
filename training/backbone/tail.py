"""Fine-tuning the backbone's last stage over cached trunk activations.

One tail is shared by all heads, so serving costs nothing more. Batch norm stays in evaluation mode (its statistics
belong to the pretraining data; small batches would spoil them), and the linear head used here is thrown away: the
guard's own heads are trained afterwards on the tuned features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.training.backbone.features import Activations, batches
from oodguard.training.backbone.tuning import CONSTANTS, TuningObjective, tuning_schedule
from oodguard.training.compute import start_compute
from oodguard.training.loop import EpochReport, fit
from oodguard.training.options import TrainOptions
from oodguard.training.unfinished import Progress, Unfinished

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
        tuning_schedule(options),
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
        "constants": CONSTANTS,
        "tail": list(tail.state_dict()),
    }
    weights = (value.detach().cpu().numpy() for value in tail.state_dict().values())
    return unfinished.training(compute, said, (*weights, *activations, frozen.numpy(), targets.numpy()))


class TailObjective(TuningObjective):
    """Of the tail, over cached activations `[V, N, ...]` with their frozen features `[V, N, D]`."""

    def __init__(
        self,
        tail: nn.Module,
        head: nn.Linear,
        activations: Activations,
        frozen: Tensor,
        targets: Tensor,
        options: TrainOptions,
    ) -> None:
        super().__init__(tail, head, options)
        self._data = (activations, frozen, targets)

    def forward(self, rows: Tensor, step: int) -> Tensor:
        """Each of `rows` in one random view."""
        activations, frozen, targets = self._data
        view = torch.randint(len(activations), (len(rows),))
        features = self.tuned(to_batch(activations[view.numpy(), rows.numpy()])).flatten(1)
        where = features.device
        before = None if self.keep is None else frozen[view, rows].to(where)
        return self.loss(features, targets[rows].to(where), before)
