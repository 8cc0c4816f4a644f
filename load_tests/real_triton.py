"""A real Triton Inference Server on this machine, without a container: the binary of the PyPI wheel nvidia-pytriton.

The wheel carries the server and its python backend; it is installed into an environment of its own, once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from oodguard.load_tests.environments import environment
from oodguard.load_tests.process import HOST, Process, answers, free_ports

SHARED_MEMORY = "/dev/shm/triton_python_backend"


def triton_environment(cache: Path) -> Path:
    """The environment with Triton in it, below `cache`; made if it is missing."""
    return environment("triton", cache=cache, finish=_choose_stub)


def _choose_stub(folder: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server_folder(folder) / "backends" / "python" / "triton_python_backend_stub"
    stub.unlink(missing_ok=True)
    # A link, because the stub finds its libraries relative to where it really is.
    stub.symlink_to(Path("..", "..", "python_backend_stubs", python, stub.name))


def server_folder(environment: Path) -> Path:
    """Where the wheel keeps the server."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / python / "site-packages" / "pytriton" / "tritonserver"


class Triton(Process):
    """A Triton process serving `repository` on free ports.

    ```python
    with Triton(environment, repository) as triton:
        client = tritonclient.grpc.InferenceServerClient(triton.address)
    ```

    `kill` and `start` again bring it back on the same ports.
    """

    def __init__(self, environment: Path, repository: Path, *flags: str, models: Sequence[str] = ()) -> None:
        self.grpc, self.http, self.metrics = free_ports(3)
        folder = server_folder(environment)
        command = [
            str(folder / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={folder / 'backends'}",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
        ]
        for kind, port in (("grpc", self.grpc), ("http", self.http), ("metrics", self.metrics)):
            command += [f"--{kind}-address={HOST}", f"--{kind}-port={port}"]
        if models:
            command += ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)]
        super().__init__(
            "Triton",
            [*command, *flags],
            ready=lambda: answers(f"http://{HOST}:{self.http}/v2/health/ready"),
            environment={
                "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
                # Our packages must not reach the backend.
                "PYTHONPATH": "",
            },
        )

    @property
    def address(self) -> str:
        """HOST:PORT of its gRPC service."""
        return f"{HOST}:{self.grpc}"

    def kill(self) -> None:
        """End it and the processes of its backends as a power cut would."""
        regions: set[Path] = set()
        if self.process.poll() is None:
            maps = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
            regions = {Path(line.split()[-1]) for line in maps if line.split()[-1].startswith(SHARED_MEMORY)}
        super().kill()
        # The kernel would keep them until the machine restarts.
        for region in regions:
            region.unlink(missing_ok=True)

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
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if child.name() == "triton_python_backend_stub"]
