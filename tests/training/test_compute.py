"""Training in several processes: real ones, started by torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from oodguard.core.errors import QualityError
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.loop import Objective, Schedule, fit
from oodguard.training.options import TrainOptions
from oodguard.training.record import load_record

SCRIPT = """
import json, sys
import torch
from torch import nn
from oodguard.training.compute import start_compute
from oodguard.training.loop import Objective, Schedule, fit

class Line(Objective):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.line = nn.Linear(3, 1)
    def forward(self, rows, step):
        self.seen += rows.tolist()
        return (self.line(X[rows]) - Y[rows]).square().mean()

torch.manual_seed(0)
X, Y = torch.randn(64, 3), torch.randn(64, 1)
compute = start_compute()
objective = Line()
fit(compute, objective, Schedule(epochs=2, batch=16, lr=0.1), count=64)
found = {"weights": objective.line.weight.tolist(), "seen": objective.seen}
open(f"{sys.argv[1]}/{compute.world_size}-{compute.global_rank}.json", "w").write(json.dumps(found))
"""


def torchrun(processes: int, *command: str) -> None:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    """What one process, and each of two, saw and learned."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "line.py").write_text(SCRIPT)
    for processes in (1, 2):
        torchrun(processes, str(folder / "line.py"), str(folder))
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_two_processes_share_each_batch_and_learn_what_one_learns(steps: dict[str, dict[str, list[float]]]) -> None:
    alone, first, second = (steps[name] for name in ("1-0", "2-0", "2-1"))
    assert first["weights"] == second["weights"]
    assert first["weights"] == [pytest.approx(row, abs=1e-5) for row in alone["weights"]]
    for start in range(0, 64, 8):
        halves = {*first["seen"][start : start + 8], *second["seen"][start : start + 8]}
        assert halves == {*alone["seen"][2 * start : 2 * start + 16]}


def test_two_processes_train_one_run(photos: Path, cache: Path, options: TrainOptions, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun(
        2, "-m", "oodguard.cli", "train", "--data", str(photos), "--cache", str(cache), "--out", str(out),
        "--image-size", "72", "--views", "2", "--fine-tune-epochs", "4", "--epochs", "20", "--hidden", "32",
        "--calibration-fraction", "0.33",
    )  # fmt: skip
    record = load_record(out)
    assert record.metrics["test_accuracy"] > 0.9
    assert record.options["seed"] == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy() -> None:
    class Broken(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, rows: torch.Tensor, step: int) -> torch.Tensor:
            loss = self.weight.sum() * (float("nan") if step == 5 else 1.0)
            assert isinstance(loss, torch.Tensor)
            return loss

    with pytest.raises(QualityError, match=r"step 6 \(epoch 2\).*lower --lr"):
        fit(start_compute(1), Broken(), Schedule(epochs=3, batch=4, lr=0.1), count=16)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with cpu_threads(0):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
