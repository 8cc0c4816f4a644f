"""Arenas on disk, so that an interrupted comparison does not tune a network again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench.arena import Arena, OodSet
from oodguard.bench.problem import LearningProblem, Space
from oodguard.core.errors import EnvironmentProblem

Key = Mapping[str, str | int | float | bool | None]
FORMAT = 2
SpaceOf = Callable[[Tensor], Space]


def digest(key: Key) -> str:
    """A name for everything a result depends on."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:24]


def path_of(cache: Path, key: Key) -> Path:
    """Where an arena with this key is kept."""
    return cache / "arenas" / f"{digest({**key, 'stored': FORMAT})}.safetensors"


def save(arena: Arena, path: Path) -> None:
    """Write an arena without its space. Raises `EnvironmentProblem` when it cannot be written."""
    problem = arena.problem
    tensors = {
        "inputs": problem.inputs,
        "targets": problem.targets,
        "calibration": problem.calibration,
        "calibration_targets": problem.calibration_targets,
        "test": arena.test,
        "test_targets": arena.test_targets,
    }
    if problem.outliers is not None:
        tensors["outliers"] = problem.outliers
    for name, found in arena.ood_sets.items():
        tensors[f"ood/{name}"] = found.inputs
        if found.targets is not None:
            tensors[f"labels/{name}"] = found.targets
    facts = {
        "classes": str(problem.classes),
        "seed": str(problem.seed),
        "kinds": json.dumps({name: found.kind for name, found in arena.ood_sets.items()}),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, partial, facts)
        partial.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror}); choose another --cache") from None


def kept(path: Path, compute: Fabric, make: Callable[[], Arena], space: SpaceOf) -> Arena:
    """The arena at `path`, made first where there is none. All processes call it; one writes."""
    with compute.rank_zero_first():
        found = path.is_file()
    if not found:
        arena = make()
        if compute.is_global_zero:
            save(arena, path)
        compute.barrier()
    return load(path, space)


def load(path: Path, space: SpaceOf) -> Arena:
    """Read an arena back; `space` makes the space from the training inputs."""
    with safetensors.safe_open(path, framework="pt") as stream:
        facts = stream.metadata()
        tensors: dict[str, Tensor] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    problem = LearningProblem(
        inputs=tensors["inputs"],
        targets=tensors["targets"],
        calibration=tensors["calibration"],
        calibration_targets=tensors["calibration_targets"],
        outliers=tensors.get("outliers"),
        classes=int(facts["classes"]),
        space=space(tensors["inputs"]),
        seed=int(facts["seed"]),
    )
    ood_sets = {
        name: OodSet(kind, tensors[f"ood/{name}"], tensors.get(f"labels/{name}"))
        for name, kind in json.loads(facts["kinds"]).items()
    }
    return Arena(problem=problem, test=tensors["test"], test_targets=tensors["test_targets"], ood_sets=ood_sets)
