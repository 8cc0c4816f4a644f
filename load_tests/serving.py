"""Servers under test: started on a free port, ready when they answer a real request, ended whatever happens."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from oodguard.core.errors import EnvironmentProblem

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 10.0


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def oodguard_command(bundle: Path, *, port: int, admin_port: int = 0, extra: str = "") -> list[str]:
    """The command that serves `bundle` on `port`; `extra` is passed to `oodguard serve` as it is."""
    command = [sys.executable, "-m", "oodguard.cli", "serve", str(bundle), "--host", HOST, "--port", str(port)]
    return [
        *command,
        "--admin-port",
        str(admin_port),
        "--drain-delay",
        "0",
        "--log-level",
        "error",
        *shlex.split(extra),
    ]


class Server:
    """A server in a process group of its own, ready when it answers a real request with 200.

    ```python
    with Server("oodguard", command, port=port, body=image) as server:
        ...
    ```

    Leaving the block ends every process it started, however the block is left.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        body: bytes,
        path: str = "/predict",
        content_type: str = "image/jpeg",
        key: str | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._command = list(command)
        self._request = (path, body, {"content-type": content_type, **({"x-api-key": key} if key else {})})
        self._environment = {**os.environ, **(environment or {})}
        self._folder = folder
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, self.port)) == 0:
                raise EnvironmentProblem(f"port {self.port} is in use; choose another with --port")
        self._process = subprocess.Popen(
            self._command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        answer = "nothing"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise EnvironmentProblem(f"{self.name} ended while starting: {self.last_words()}")
            try:
                status, _ = self.ask()
                if status == 200:
                    return
                answer = f"status {status}"
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        raise EnvironmentProblem(
            f"{self.name} did not start in {START_SECONDS:g} s; it answered {answer} and wrote: {self.last_words()}"
        )

    def ask(self) -> tuple[int, bytes]:
        """Send the readiness request once: status and body of the answer."""
        path, body, headers = self._request
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def processes(self) -> list[psutil.Process]:
        """The server's process and everything below it."""
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss(self) -> int:
        """Resident memory of all its processes, in bytes."""
        return sum(process.memory_info().rss for process in self.processes())

    def descriptors(self) -> int:
        """Open files and sockets of all its processes."""
        return sum(process.num_fds() for process in self.processes())

    def cpu_seconds(self) -> float:
        """Processor time its processes have used."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.processes()))

    def last_words(self) -> str:
        """The last lines it wrote, as one."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-6:]) or "it wrote nothing"

    def stop(self) -> None:
        """End all of its processes; whatever ignores SIGTERM is killed."""
        if self._process is None:
            return
        running = self.processes()
        for process in running[:1]:
            process.send_signal(signal.SIGTERM)
        _, stubborn = psutil.wait_procs(running, timeout=STOP_SECONDS)
        for process in stubborn:
            process.kill()
        psutil.wait_procs(stubborn, timeout=STOP_SECONDS)
        self._process.wait(STOP_SECONDS)
        self._process = None
        self._log.close()
