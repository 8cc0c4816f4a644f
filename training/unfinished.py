"""Where an interrupted training goes on: its state after each epoch, in the cache. Nothing pickled is loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import nn

from oodguard.core.errors import EnvironmentProblem

FOLDER = "unfinished"
# What nobody came back for is removed by the next training.
KEPT_SECONDS = 30 * 86_400


@dataclass
class Unfinished:
    """The trainings of one run that may be interrupted; `forget` removes what they left once the run is written."""

    cache: Path
    used: set[Path] = field(default_factory=set)

    def training(self, compute: Fabric, said: Mapping[str, object], arrays: Iterable[npt.NDArray[Any]]) -> Progress:
        """The progress of the training that `said` and `arrays` decide the result of.

        Threads, devices and versions are part of the key: under others the same seed gives other last bits.
        """
        digest = hashlib.sha256()
        decides = {
            **said,
            "versions": {name: importlib.metadata.version(name) for name in ("oodguard", "torch")},
            "where": [str(compute.device), compute.world_size, torch.get_num_threads()],
        }
        digest.update(json.dumps(decides, sort_keys=True).encode())
        for array in arrays:
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        path = self.cache / FOLDER / f"{digest.hexdigest()[:24]}.pt"
        self.used.add(path)
        return Progress(path)

    def prune(self) -> None:
        """Remove what was left behind long ago."""
        for path in (self.cache / FOLDER).glob("*"):
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what the run's trainings left: its weights are written."""
        for path in self.used:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Progress:
    """How far a training has come: what it trains, the optimiser, the learning rate and the random numbers."""

    path: Path

    def restore(
        self,
        compute: Fabric,
        objective: nn.Module,
        optimiser: torch.optim.Optimizer,
        rate: torch.optim.lr_scheduler.LRScheduler,
    ) -> list[float]:
        """Put everything as it was after the last finished epoch; the loss of each epoch until then. All call it."""
        state = self._read() if compute.is_global_zero else None
        if compute.world_size > 1:
            state = compute.broadcast(state)
        if state is None:
            return []
        objective.load_state_dict(state["objective"])
        optimiser.load_state_dict(state["optimiser"])
        rate.load_state_dict(state["rate"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        return [float(loss) for loss in state["losses"]]

    def keep(
        self,
        compute: Fabric,
        objective: nn.Module,
        optimiser: torch.optim.Optimizer,
        rate: torch.optim.lr_scheduler.LRScheduler,
        *,
        losses: Sequence[float],
    ) -> None:
        """Write the state after epochs with these `losses`, whole or not at all.

        Raises `EnvironmentProblem` where it cannot be written.
        """
        if not compute.is_global_zero:
            return
        state = {
            "losses": list(losses),
            "objective": objective.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rate": rate.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(stream.name).replace(self.path)
        except OSError as error:
            raise EnvironmentProblem(f"{self.path.parent} cannot be written ({error.strerror or error})") from None

    def _read(self) -> dict[str, Any] | None:
        """What was written last; None: nothing, or a file that is not ours, and training begins anew."""
        if not self.path.is_file():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # PyTorch raises many types on a damaged file
            return None
        return found if isinstance(found, dict) and "losses" in found else None
