"""`oodguard serve` as a server under test."""

from __future__ import annotations

from pathlib import Path

from oodguard.load_tests.counters import Counters
from oodguard.load_tests.harness import read_bundle
from oodguard.load_tests.real_triton import free_ports
from oodguard.load_tests.serving import HOST, Server, oodguard_command


class Gateway(Server):
    """A bundle, served on free ports; ready when its first golden image is answered.

    ```python
    with Gateway(Path("bundles/photos")) as gateway:
        httpx.get(f"{gateway.url}/model")
    ```
    """

    def __init__(self, bundle: Path, *, extra: str = "", key: str | None = None) -> None:
        golden = bundle / read_bundle(bundle).golden[0].path
        port, admin_port = free_ports(2)
        command = oodguard_command(bundle, port=port, admin_port=admin_port, extra=extra)
        super().__init__("oodguard", command, port=port, body=golden.read_bytes(), key=key)
        self.url = f"http://{HOST}:{port}"
        self.counters = Counters(admin_port)

    def __enter__(self) -> Gateway:
        super().__enter__()
        return self
