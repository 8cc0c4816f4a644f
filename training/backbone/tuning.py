"""What fine-tuning minimises, whether of the backbone's last stage or of all of it.

Fine-tuning for labels alone forgets what tells strange photos from known ones: the frozen feature finds them by its
density, the tuned one does not. So what is tuned also keeps it: a linear map K, which starts as the identity and is
thrown away afterwards, as the linear head is, must recover the feature z0 that the same view had before from the tuned
feature z,

    L = CE(head(z), y) + retain * mean(1 - cos(K z, z0)).

What K can recover is still in z, linearly, for the densities and heads that follow; serving costs nothing more.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from oodguard.training.loop import Objective, Schedule
from oodguard.training.options import TrainOptions

HEAD_LR = 3e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.15
CONSTANTS = [HEAD_LR, WEIGHT_DECAY, WARM_UP]


def tuning_schedule(options: TrainOptions) -> Schedule:
    """AdamW under one cycle: a warm-up, then a cosine."""
    return Schedule(
        epochs=options.tuning_epochs,
        batch=options.fine_tune_batch,
        lr=options.tuning_lr,
        weight_decay=WEIGHT_DECAY,
        shape="one-cycle",
        warm_up=WARM_UP,
        accumulate=options.fine_tune_accumulate,
    )


class TuningObjective(Objective):
    """Cross-entropy of a linear head on the features of `tuned`, and what they lost of the earlier ones."""

    def __init__(self, tuned: nn.Module, head: nn.Linear, options: TrainOptions) -> None:
        super().__init__()
        self.tuned = tuned
        self.head = head
        self.label_smoothing = options.label_smoothing
        self.retain = options.retain
        self.keep = nn.Linear(head.in_features, head.in_features, bias=False) if options.retain else None
        if self.keep is not None:
            nn.init.eye_(self.keep.weight)

    def loss(self, features: Tensor, labels: Tensor, before: Tensor | None) -> Tensor:
        """L of features `[B, D]`; labels: classes `[B]` or shares `[B, C]`; before: z0; None: nothing is kept."""
        loss = functional.cross_entropy(self.head(features), labels, label_smoothing=self.label_smoothing)
        if self.keep is None or before is None:
            return loss
        kept = functional.cosine_similarity(self.keep(features).float(), before)
        return loss + self.retain * (1.0 - kept).mean()

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, object]]:
        """Kernels of what is tuned, its vectors, the head, which starts from nothing and learns faster, and the map."""
        kernels, vectors = ([p for p in self.tuned.parameters() if (p.ndim > 1) == decays] for decays in (True, False))
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
