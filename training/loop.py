"""THE training loop: every network of this project is trained by `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.core.errors import QualityError
from oodguard.training.unfinished import Progress


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW (or SGD with Nesterov momentum) under a cosine or a one-cycle learning rate.

    `batch` counts the images of a step over all processes. `warm_up` is the one cycle's rising share. The weights
    change after every `accumulate` steps, by the mean of their gradients.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float = 0.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    shape: Literal["cosine", "one-cycle"] = "cosine"
    warm_up: float = 0.15
    accumulate: int = 1


@dataclass(frozen=True)
class EpochReport:
    """Progress of training: `loss` is the epoch's mean, `seconds` how long it took, 0 before an interruption."""

    epoch: int
    epochs: int
    loss: float
    seconds: float


class Objective(nn.Module):
    """A loss and everything it trains: `forward(rows, step)` is the loss of the training images `rows`, a scalar.

    A module, so that one wrapper can average gradients over processes. Each process is given its share of a batch, of
    the same size, and draws as many random numbers as the others: what they draw for all images, such as the active
    members of an ensemble, they agree on. `max_norm` bounds the norm of all its gradients together.
    """

    max_norm: float | None = None

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """What is trained, and with which weight decay: matrices and kernels decay, vectors do not."""
        return self.groups([p for p in self.trained if p.ndim > 1], schedule)

    def upcoming(self, epoch: int, epochs: int, rows: Sequence[Tensor]) -> None:
        """Told before each epoch: the `rows` that `forward` is going to be given, batch by batch."""

    def stepped(self) -> None:
        """Told after each change of the weights."""

    @property
    def trained(self) -> list[nn.Parameter]:
        """Every parameter that learns."""
        return [p for p in self.parameters() if p.requires_grad]

    def groups(self, decayed: Sequence[nn.Parameter], schedule: Schedule) -> list[dict[str, object]]:
        """Two groups: the `decayed` parameters, and all others that learn, which do not decay."""
        chosen = {id(p) for p in decayed}
        return [
            {"params": list(decayed), "weight_decay": schedule.weight_decay},
            {"params": [p for p in self.trained if id(p) not in chosen], "weight_decay": 0.0},
        ]

    def peaks(self, schedule: Schedule) -> list[float]:
        """The highest learning rate of each group."""
        return [schedule.lr for _ in self.parameter_groups(schedule)]


def fit(
    compute: Fabric,
    objective: Objective,
    schedule: Schedule,
    *,
    count: int,
    what: str = "training",
    remedy: str = "lower --lr",
    progress: Callable[[EpochReport], None] | None = None,
    kept: Progress | None = None,
) -> None:
    """Minimise `objective` over `count` training images, in place. Deterministic: the caller seeds torch.

    An epoch visits every image once, in random order, but for a last incomplete batch. kept: where the state after each
    epoch is kept, and taken up where it is there: the result is that of a training without a break. Raises
    `QualityError` with the step and `remedy` when the loss stops being finite; nothing is returned then.
    """
    batch = min(schedule.batch, count)
    batch -= batch % compute.world_size if batch >= compute.world_size else 0
    steps = max(count // batch, 1)
    groups = objective.parameter_groups(schedule)
    plain = _optimiser(groups, schedule)
    changes = math.ceil(steps / schedule.accumulate)
    # The last group of an epoch may be smaller; its gradients count by their own mean.
    spare = steps % schedule.accumulate
    rate = _rate(plain, objective, schedule, schedule.epochs * changes)
    network, optimiser = compute.setup(objective, plain)
    losses = [] if kept is None else kept.restore(compute, objective, plain, rate)
    for number, loss_before in enumerate(losses, start=1):
        if progress:
            progress(EpochReport(number, schedule.epochs, loss_before, 0.0))
    step = len(losses) * steps
    for epoch in range(len(losses), schedule.epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(count)
        starts = range(0, steps * batch, batch)
        mine = [order[start : start + batch][compute.global_rank :: compute.world_size] for start in starts]
        objective.upcoming(epoch, schedule.epochs, mine)
        for number, rows in enumerate(mine, start=1):
            last = number % schedule.accumulate == 0 or number == steps
            group = spare if number > steps - spare else schedule.accumulate
            with compute.no_backward_sync(network, enabled=not last):
                loss = network(rows, step)
                compute.backward(loss / group)
            if last:
                if objective.max_norm is not None:
                    compute.clip_gradients(network, optimiser, max_norm=objective.max_norm)
                optimiser.step()
                optimiser.zero_grad()
                rate.step()
                objective.stepped()
            step += 1
            total += float(loss.detach())
            if not math.isfinite(total):
                raise QualityError(
                    f"{what} diverged at step {step} (epoch {epoch + 1}): the loss is not finite; {remedy}"
                )
        losses.append(total / steps)
        if kept is not None:
            kept.keep(compute, objective, plain, rate, losses=losses)
        if progress:
            progress(EpochReport(epoch + 1, schedule.epochs, total / steps, time.perf_counter() - started))


def _optimiser(groups: list[dict[str, object]], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.lr)


def _rate(
    optimiser: torch.optim.Optimizer, objective: Objective, schedule: Schedule, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.shape == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=objective.peaks(schedule), total_steps=steps, pct_start=schedule.warm_up
        )
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
