"""Results of a comparison: one record for each method, seed, OOD set and score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field

from oodguard.bench.arena import Kind
from oodguard.core.frozen import Frozen


class Trial(Frozen):
    """One method trained once in one arena. `failed`: why there are no numbers."""

    arena: str
    method: str
    seed: int
    accuracy: float | None = Field(description="on the arena's test images")
    member_accuracy: tuple[float, ...] = ()
    seconds: float = Field(description="training, without what it started from")
    diagnostics: dict[str, float] = Field(default_factory=dict)
    failed: str | None = None


class Record(Frozen):
    """One score of one trial against one OOD set. Shares are in [0, 1]; `fpr95` is OOD accepted at 95 % ID accepted.

    `flagged` is the share of OOD images beyond the threshold that accepts 95 % of calibration images, `accepted` the
    share of ID test images below it. No threshold depends on OOD images.
    """

    arena: str
    method: str
    seed: int
    ood: str
    kind: Kind
    images: int
    score: str
    auroc: float
    fpr95: float
    id_flagged_at_95_ood: float
    aupr_in: float
    aupr_out: float
    flagged: float
    accepted: float
    accuracy: float
    shifted_accuracy: float | None = Field(None, description="on the OOD set, where its images have ID classes")


class Results(Frozen):
    """`results.json`."""

    format: int = 1
    suite: str
    quick: bool
    command: str
    created: str
    machine: str
    versions: dict[str, str]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    records: tuple[Record, ...]


class Mean(Frozen):
    """Mean and standard deviation over seeds (0 for one)."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """The mean of at least one value."""
        array = np.array(list(values), dtype=np.float64)
        spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
        return cls(mean=float(array.mean()), deviation=spread, count=len(array))

    def percent(self) -> str:
        """The mean in percent, such as `81.5 ± 0.7`."""
        text = f"{100 * self.mean:.1f}"
        return f"{text} ± {100 * self.deviation:.1f}" if self.count > 1 else text


def arenas(results: Results) -> list[str]:
    """The names of the arenas, in their order."""
    return list(dict.fromkeys(trial.arena for trial in results.trials))


def ood_sets(records: Sequence[Record], arena: str) -> list[tuple[str, Kind]]:
    """The OOD sets of an arena, in their order."""
    return list(dict.fromkeys((r.ood, r.kind) for r in records if r.arena == arena))
