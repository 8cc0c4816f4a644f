"""A training that is killed goes on where it was, and ends with the bits of one that was left in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oodguard.core.errors import EnvironmentProblem
from oodguard.training.backbone.tail import tail_features, tune_tail
from oodguard.training.compute import start_compute
from oodguard.training.loop import EpochReport
from oodguard.training.options import TrainOptions
from oodguard.training.unfinished import FOLDER, KEPT_SECONDS, Unfinished

WIDTH, CLASSES, EPOCHS = 16, 3, 5
SCRIPT = """
import sys, time
from pathlib import Path
from tests.training.test_unfinished import tuned

def slow(report):
    print(report.epoch, flush=True)
    if report.epoch == int(sys.argv[2]):
        time.sleep(600)  # to be killed in the middle of it

tuned(Path(sys.argv[1]), progress=slow)
"""


def tuned(
    cache: Path, *, progress: Callable[[EpochReport], None] | None = None, changes: Mapping[str, object] | None = None
) -> tuple[dict[str, torch.Tensor], Unfinished]:
    """The weights of a small tail, tuned; each image in a random view."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Conv2d(4, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    rng = np.random.default_rng(0)
    targets = np.arange(90) % CLASSES
    values = rng.normal(scale=0.3, size=(2, 90, 4, 6, 6))
    values[:, np.arange(90), targets] += 1.0
    activations = values.astype(np.float16)
    frozen = torch.stack([tail_features(tail.eval(), view) for view in activations])
    options = TrainOptions.model_validate(
        {"data": Path("photos"), "fine_tune_epochs": EPOCHS, "fine_tune_lr": 0.01, "cache": cache, **(changes or {})}
    )
    unfinished = Unfinished(cache)
    tune_tail(
        tail,
        activations,
        frozen,
        torch.from_numpy(targets),
        options,
        classes=CLASSES,
        width=WIDTH,
        compute=start_compute(1),
        progress=progress,
        unfinished=unfinished,
    )
    return tail.state_dict(), unfinished


def killed(cache: Path, *, after: int) -> None:
    """Start the same tuning in another process, and kill it once it has finished so many epochs."""
    command = [sys.executable, "-c", SCRIPT, str(cache), str(after)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(after):
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_killed_tuning_goes_on_and_gives_the_same_bits(tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    whole, _ = tuned(tmp_path / "whole", progress=reports.append)
    killed(tmp_path / "broken", after=2)
    (left,) = (tmp_path / "broken" / FOLDER).iterdir()
    assert len(torch.load(left, weights_only=True)["losses"]) == 2
    seen: list[EpochReport] = []
    again, unfinished = tuned(tmp_path / "broken", progress=seen.append)
    assert [(report.epoch, report.seconds > 0) for report in seen] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
        (5, True),
    ]
    losses = [report.loss for report in seen]
    assert same(whole, again)
    assert losses == [report.loss for report in reports]

    # Killed again after the tuning, nothing is tuned twice; at the end nothing is left.
    seen.clear()
    assert same(whole, tuned(tmp_path / "broken", progress=seen.append)[0])
    assert [report.seconds for report in seen] == [0.0] * EPOCHS
    unfinished.forget()
    assert list((tmp_path / "broken" / FOLDER).iterdir()) == []


@pytest.mark.parametrize("change", [{"seed": 1}, {"fine_tune_lr": 0.02}, {"retain": 2.0}, {"fine_tune_epochs": 6}])
def test_another_training_does_not_go_on_from_it(change: dict[str, object], tmp_path: Path) -> None:
    tuned(tmp_path)
    seen: list[EpochReport] = []
    found, _ = tuned(tmp_path, progress=seen.append, changes=change)
    assert seen[0].seconds > 0
    assert same(found, tuned(tmp_path / "apart", changes=change)[0])
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_a_damaged_file_and_another_programs_begin_anew(tmp_path: Path) -> None:
    whole, unfinished = tuned(tmp_path)
    (path,) = unfinished.used
    for content in (path.read_bytes()[:200], b"", b"something else"):
        path.write_bytes(content)
        seen: list[EpochReport] = []
        assert same(whole, tuned(tmp_path, progress=seen.append)[0])
        assert all(report.seconds > 0 for report in seen)


def test_what_nobody_came_back_for_is_removed(tmp_path: Path) -> None:
    _, unfinished = tuned(tmp_path)
    (path,) = unfinished.used
    unfinished.prune()
    assert path.is_file()
    old = time.time() - KEPT_SECONDS - 1
    os.utime(path, (old, old))
    unfinished.prune()
    assert not path.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(EnvironmentProblem, match=r"unfinished cannot be written"):
        tuned(tmp_path)
