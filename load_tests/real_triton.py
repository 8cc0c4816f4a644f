"""A real Triton Inference Server on this machine, without a container: the binary of the PyPI wheel nvidia-pytriton.

The wheel carries the server and its python backend; it is installed into an environment of its own, once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from oodguard.core.errors import EnvironmentProblem

HOST = "127.0.0.1"
REQUIREMENTS = Path(__file__).resolve().parent / "peers" / "requirements-triton.txt"
SHARED_MEMORY = "/dev/shm/triton_python_backend"
INSTALL_SECONDS = 540
START_SECONDS = 60.0
STOP_SECONDS = 15.0


def triton_environment(cache: Path) -> Path:
    """The environment with Triton in it, below `cache`; made if it is missing, by one process of all that ask."""
    folder = (cache / "triton").absolute()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "installed"
    with (cache / "triton.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text() == wanted):
            _install(folder)
            stamp.write_text(wanted)
    return folder


def _install(folder: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--requirement", str(REQUIREMENTS)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"Triton was not installed within {INSTALL_SECONDS} s") from None
    if ran.returncode:
        raise EnvironmentProblem(f"Triton cannot be installed: {ran.stderr.strip()[-300:]}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server_folder(folder) / "backends" / "python" / "triton_python_backend_stub"
    stub.unlink(missing_ok=True)
    # A link, because the stub finds its libraries relative to where it really is.
    stub.symlink_to(Path("..", "..", "python_backend_stubs", python, stub.name))


def server_folder(environment: Path) -> Path:
    """Where the wheel keeps the server."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / python / "site-packages" / "pytriton" / "tritonserver"


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at the moment, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Triton:
    """A Triton process serving `repository` on free ports; use it as a context manager.

    ```python
    with Triton(environment, repository) as triton:
        client = tritonclient.grpc.InferenceServerClient(triton.address)
    ```

    Leaving the block ends it and the processes of its backends. `restart` brings it back on the same ports.
    """

    def __init__(self, environment: Path, repository: Path, *flags: str, models: Sequence[str] = ()) -> None:
        self._environment = environment
        self._repository = repository
        self.grpc, self.http, self.metrics = free_ports(3)
        control = ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)] if models else []
        self._flags = [*control, *flags]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of its gRPC service."""
        return f"{HOST}:{self.grpc}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Triton:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()

    def start(self, *, wait: bool = True) -> None:
        """Start it and wait until it is ready."""
        folder, python = server_folder(self._environment), self._environment / "bin"
        command = [
            str(folder / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={folder / 'backends'}",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
        ]
        for kind, port in (("grpc", self.grpc), ("http", self.http), ("metrics", self.metrics)):
            command += [f"--{kind}-address={HOST}", f"--{kind}-port={port}"]
        libraries = str(sysconfig.get_config_var("LIBDIR"))
        self._process = subprocess.Popen(
            [*command, *self._flags],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # PYTHONPATH would let our packages into the backend's.
            env={
                **os.environ,
                "PATH": f"{python}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": libraries,
                "PYTHONPATH": "",
            },
            start_new_session=True,
        )
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.stop()
                raise

    def wait_ready(self) -> None:
        """Return when every model is ready. Raises `EnvironmentProblem`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise EnvironmentProblem(f"Triton ended while starting: {self.last_words()}")
            if self.is_ready():
                return
            time.sleep(0.05)
        raise EnvironmentProblem(f"Triton was not ready in {START_SECONDS:g} s: {self.last_words()}")

    def is_ready(self) -> bool:
        """Whether the server says so."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.http}/v2/health/ready", timeout=5) as answer:
                return int(answer.status) == 200
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """End it, and the processes of its backends, as a power cut would."""
        if self._process is None or self._process.poll() is not None:
            return
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        regions = {line.split()[-1] for line in maps if line.split()[-1].startswith(SHARED_MEMORY)}
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        # The kernel would keep them until the machine restarts.
        for region in regions:
            Path(region).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it in order."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        # A backend's process outlives a server that was killed alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop its backends' processes for a while: Triton answers, inferences do not."""
        stopped = self.backends()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def backends(self) -> list[int]:
        """The processes of its python backend's instances."""
        children = psutil.Process(self.pid).children(recursive=True)
        return [child.pid for child in children if child.name() == "triton_python_backend_stub"]

    def cpu_seconds(self) -> float:
        """Processor time of the server and its backends."""
        process = psutil.Process(self.pid)
        everything = [process, *process.children(recursive=True)]
        return float(sum(sum(one.cpu_times()[:2]) for one in everything))

    def last_words(self) -> str:
        """The last lines it wrote, as one."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-8:]) or "it wrote nothing"
