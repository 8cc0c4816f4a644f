"""A process under test: started in a session of its own, waited for, measured, and ended with all it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
import psutil

from oodguard.core.errors import EnvironmentProblem

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LAST_LINES = 8


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def answers(url: str, *, status: int = 200) -> bool:
    """Whether a GET of `url` is answered with `status`; certificates are not checked."""
    try:
        return httpx.get(url, verify=False, timeout=5).status_code == status
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = START_SECONDS) -> float:
    """Return once `condition()` is true; the seconds that took. Raises `TimeoutError`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(0.02)
    return time.monotonic() - began


class Process:
    """A command that is ready when `ready()` is true.

    ```python
    with Process("proxy", ["haproxy", "-f", path], ready=lambda: answers(url)) as proxy:
        print(proxy.rss())
    ```

    Leaving the block ends the process and every process below it, however the block is left.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._ready = ready
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._written = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process itself."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def start(self, *, wait: bool = True) -> Self:
        """Start the process, once more if it has ended, and wait until it is ready. Raises `EnvironmentProblem`."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
        self._process = subprocess.Popen(
            self._command,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,
        )
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.stop()
                raise
        return self

    def is_ready(self) -> bool:
        """Whether the process is ready now."""
        return self._ready()

    def wait_ready(self, ready: Callable[[], bool] | None = None) -> None:
        """Return when the process is ready, or `ready` is true. Raises `EnvironmentProblem` where neither happens."""

        def over() -> bool:
            return (ready or self._ready)() or self.process.poll() is not None

        try:
            wait_until(over, START_SECONDS)
        except TimeoutError:
            problem = f"was not ready within {START_SECONDS:g} s"
        else:
            if self.process.poll() is None:
                return
            problem = "ended while starting"
        raise EnvironmentProblem(f"{self.name} {problem}; it wrote: {self.last_lines()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and end everything that is then still there after `STOP_SECONDS`; the exit code."""
        if self._process is None:
            return 0
        below = self.tree()[1:]
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        _wait_ended(below, STOP_SECONDS)
        _kill(below)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End the process and all below it as a power cut would."""
        if self._file is None:
            return
        _kill(self.tree())
        # A child outlives a parent that was killed alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self._written = self.output()
        self._file.close()
        self._file = None

    def tree(self) -> list[psutil.Process]:
        """The process and every process below it; none when it has ended."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss(self) -> int:
        """Resident memory of the whole tree, in bytes."""
        return sum(one.memory_info().rss for one in self.tree())

    def descriptors(self) -> int:
        """Open files and sockets of the whole tree."""
        return sum(one.num_fds() for one in self.tree())

    def cpu_seconds(self) -> float:
        """Processor time that the whole tree has used."""
        return float(sum(sum(one.cpu_times()[:2]) for one in self.tree()))

    def output(self) -> str:
        """All that the process has written to its standard output and error since it started."""
        if self._file is None:
            return self._written
        # Not `seek`: the process writes at the same offset.
        number = self._file.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def last_lines(self) -> str:
        """The last lines of the output, as one."""
        lines = self.output().strip().splitlines()
        return " / ".join(line.strip() for line in lines[-LAST_LINES:]) or "nothing"


def _kill(processes: Sequence[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    _wait_ended(processes, STOP_SECONDS)


def _wait_ended(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Wait until all have ended; one that its parent has not collected has ended, too."""

    def runs(one: psutil.Process) -> bool:
        try:
            return bool(one.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(runs(one) for one in processes), seconds)
