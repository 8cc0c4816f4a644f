"""Where methods compete: an arena is one problem to learn, its test images, and the OOD sets. A suite gives arenas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench.problem import LearningProblem
from oodguard.training.progress import Reporter

Kind = Literal["near", "far", "covariate"]


@dataclass(frozen=True)
class OodSet:
    """OOD images `[O, ...]`; with covariate shift they still have classes, `targets`, by which accuracy is measured."""

    kind: Kind
    inputs: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True)
class Arena:
    """A problem with its test images `[T, ...]`, their classes `[T]`, and the OOD sets by name."""

    problem: LearningProblem
    test: Tensor
    test_targets: Tensor
    ood_sets: Mapping[str, OodSet]


@dataclass(frozen=True)
class BenchPlan:
    """An arena that is built only when a method has to be trained in it.

    `key` is everything its numbers depend on but the method: data fingerprints, options, seed. The same key gives the
    same arena.
    """

    name: str
    seed: int
    key: Mapping[str, str | int | float | bool | None]
    build: Callable[[Fabric, Reporter], Arena]


@dataclass(frozen=True)
class BenchSetting:
    """The options of `oodguard bench` that suites read.

    `backbone` and `image_size` are for suites of photos, `hidden` (units of a head) for all features of a network,
    `network` for suites that train on pixels; None: the suite's own.
    """

    data: Path
    cache: Path
    quick: bool = False
    threads: int = 0
    backbone: str = "tf_efficientnet_lite0"
    image_size: int | None = None
    hidden: int = 128
    network: str | None = None


class Suite(Protocol):
    """A named set of arenas for every seed."""

    @property
    def name(self) -> str:
        """As the command line takes it."""

    @property
    def summary(self) -> str:
        """One line: ID data, OOD sets, networks."""

    def plans(self, setting: BenchSetting, seed: int) -> list[BenchPlan]:
        """The arenas for one seed. Raises `InputError` where data is missing."""
