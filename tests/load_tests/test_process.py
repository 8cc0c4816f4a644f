"""Processes under test: waited for, measured, and ended with everything below them."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests import process
from oodguard.load_tests.process import HOST, Process, answers, free_ports

SERVE = [sys.executable, "-u", "-m", "http.server", "--bind", HOST]


def python(program: str, *, ready: Path | None = None) -> Process:
    """A Python program, ready when a file is there."""
    return Process("the program", [sys.executable, "-u", "-c", program], ready=lambda: ready is None or ready.exists())


def test_a_server_is_waited_for_measured_and_ended() -> None:
    (port,) = free_ports(1)
    with Process("server", [*SERVE, str(port)], ready=partial(answers, f"http://{HOST}:{port}/")) as server:
        assert server.is_ready()
        assert server.rss() > 1e6
        assert server.descriptors() > 3
        assert server.cpu_seconds() > 0
        assert "GET / HTTP/1.1" in server.output()
        pid = server.process.pid
    assert not psutil.pid_exists(pid)
    assert "GET / HTTP/1.1" in server.output()
    assert server.tree() == []


def test_children_end_with_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.3)
    child = "import os, time; os.setsid(); time.sleep(600)"
    ready = tmp_path / "ready"
    parent = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    for end in (Process.stop, Process.kill):
        running = python(parent, ready=ready).start()
        (number,) = running.output().split()
        end(running)
        # Nobody may be there to collect it.
        assert not psutil.pid_exists(int(number)) or psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE
        ready.unlink()


def test_the_exit_code_is_the_processs_own(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    assert python(program, ready=ready).start().stop() == 7
    ready.unlink()
    assert python(program, ready=ready).start().stop(signal.SIGKILL) == -signal.SIGKILL


def test_what_ignores_the_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.3)
    ready = tmp_path / "ready"
    program = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    assert python(program, ready=ready).start().stop() == -signal.SIGKILL


def test_a_process_that_ends_or_is_never_ready_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    never = partial(answers, "http://127.0.0.1:9/")
    ended = Process("server", [sys.executable, "-c", "raise SystemExit('no model')"], ready=never)
    with pytest.raises(EnvironmentProblem, match=r"^server ended while starting; it wrote: no model$"):
        ended.start()
    monkeypatch.setattr(process, "START_SECONDS", 0.3)
    with pytest.raises(EnvironmentProblem, match=r"server was not ready within 0\.3 s; it wrote: nothing"):
        Process("server", [sys.executable, "-c", "import time; time.sleep(600)"], ready=never).start()


def test_a_process_starts_again(tmp_path: Path) -> None:
    running = python(f"import pathlib; print(len(list(pathlib.Path({str(tmp_path)!r}).iterdir())))")
    running.start().process.wait(30)
    assert (running.output(), running.stop()) == ("0\n", 0)
    (tmp_path / "file").touch()
    running.start().process.wait(30)
    assert (running.stop(), running.output()) == (0, "1\n")
