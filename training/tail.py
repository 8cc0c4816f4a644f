"""Fine-tuning the backbone's last stage over cached trunk activations.

One tail is shared by all heads, so serving costs nothing more. Batch norm stays in evaluation mode (its statistics
belong to the pretraining data; small batches would spoil them), and the linear head used here is thrown away: the
guard's own heads are trained afterwards on the tuned features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from oodguard.training.errors import QualityError
from oodguard.training.features import batches
from oodguard.training.heads import EpochReport
from oodguard.training.options import TrainOptions

BATCH = 32
HEAD_LR = 3e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.15
INFERENCE_BATCH = 64

Activations = npt.NDArray[np.float16]


def device() -> torch.device:
    """Where training runs: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_batch(rows: npt.NDArray[np.float16]) -> Tensor:
    """Cached activations as a float32 batch, in the memory layout convolutions like best."""
    tensor = torch.from_numpy(np.ascontiguousarray(rows)).to(device()).float()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def tail_features(tail: nn.Module, activations: Activations) -> Tensor:
    """Features `[N, D]`, float32 on the CPU, of cached activations `[N, ...]`."""
    tail = tail.to(device())
    with torch.no_grad():
        parts = [tail(to_batch(activations[rows])).flatten(1) for rows in batches(len(activations), INFERENCE_BATCH)]
    return torch.cat(parts).float().cpu()


def tune_tail(
    tail: nn.Module,
    activations: Activations,
    targets: Tensor,
    options: TrainOptions,
    *,
    classes: int,
    width: int,
    progress: Callable[[EpochReport], None] | None = None,
) -> None:
    """Train `tail` in place, with a throw-away linear head, on activations `[V, N, ...]`; each image in a random view.

    AdamW, one cycle peaking at `tune_lr`, cross-entropy with label smoothing. Raises `QualityError` on divergence.
    """
    torch.manual_seed(options.seed)
    where = device()
    views, count = activations.shape[:2]
    tail.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tail.eval()
    head = nn.Linear(width, classes).to(where)
    matrices = [p for p in tail.parameters() if p.ndim > 1]
    vectors = [p for p in tail.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
            {"params": list(head.parameters()), "weight_decay": WEIGHT_DECAY},
        ],
        lr=options.tune_lr,
    )
    batch = min(BATCH, count)
    steps = max(count // batch, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[options.tune_lr, options.tune_lr, HEAD_LR],
        total_steps=options.tune_epochs * steps,
        pct_start=WARM_UP,
    )
    for epoch in range(options.tune_epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(count)
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            view = torch.randint(views, (len(rows),))
            features = tail(to_batch(activations[view.numpy(), rows.numpy()])).flatten(1)
            loss = functional.cross_entropy(
                head(features), targets[rows].to(where), label_smoothing=options.label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += loss.item()
            if not math.isfinite(total):
                raise QualityError(
                    f"fine-tuning diverged in epoch {epoch + 1}, step {step + 1}: the loss is not finite; "
                    "lower --tune-lr"
                )
        if progress:
            progress(EpochReport(epoch + 1, options.tune_epochs, total / steps, time.perf_counter() - started))
    for parameter in tail.parameters():
        parameter.requires_grad_(False)
