"""`oodguard serve` as a process under test."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.process import Process, answers

ADDRESSES = re.compile(r"serving on (\S+) .*metrics on (\S+)/metrics")
RPC_ADDRESS = re.compile(r"gRPC on (\S+)")


class Gateway(Process):
    """A bundle, served on free ports; `flags` are those of `oodguard serve`, `environment` is beside this process's.

    ```python
    with Gateway(Path("bundles/photos"), "--max-batch", "8") as gateway:
        httpx.get(f"{gateway.url}/model")
        gateway.count("oodguard_requests", "route", "status")["/model", "200"]
    ```
    """

    def __init__(self, bundle: Path | None, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(
            "oodguard serve",
            [sys.executable, "-m", "oodguard.cli", "serve", *([str(bundle)] if bundle else []), *flags],
            ready=lambda: self.is_listening() and answers(f"{self._asked}/health/ready"),
            environment={
                **{f"OODGUARD_SERVE_{name}": "0" for name in ("PORT", "ADMIN_PORT", "DRAIN_DELAY")},
                # The addresses are printed at once, each on one line.
                "PYTHONUNBUFFERED": "1",
                "COLUMNS": "300",
                **(environment or {}),
            },
        )
        self.url = self.private = ""

    def is_listening(self) -> bool:
        """Whether the server has printed its addresses; `url` and `private` are known from then on."""
        found = ADDRESSES.search(self.output())
        if found:
            self.url, self.private = found.groups()
        return found is not None

    @property
    def rpc(self) -> str:
        """The address of the gRPC port, HOST:PORT; empty where it is off."""
        found = RPC_ADDRESS.search(self.output())
        return found[1] if found else ""

    @property
    def _asked(self) -> str:
        # A Unix socket is no URL.
        return self.private if self.url.startswith("unix:") else self.url

    @property
    def port(self) -> int:
        """The public port."""
        return int(self.url.rpartition(":")[2])

    def metrics(self) -> str:
        """The server's metrics, as Prometheus reads them. Raises `EnvironmentProblem`."""
        try:
            return httpx.get(f"{self.private}/metrics", timeout=30).raise_for_status().text
        except httpx.HTTPError as error:
            raise EnvironmentProblem(f"{self.private}/metrics cannot be read ({error})") from None

    def sample(self, series: str) -> float:
        """The value of one exported series, by its name and labels as they are written. Raises `KeyError`."""
        for line in self.metrics().splitlines():
            if line.startswith(f"{series} "):
                return float(line.split()[-1])
        raise KeyError(series)

    def count(self, counter: str, *labels: str) -> Counter[tuple[str, ...]]:
        """A counter by some of its labels, summed over the others; what is 0 is left out."""
        counts: Counter[tuple[str, ...]] = Counter()
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                if sample.name == f"{counter}_total" and sample.value:
                    counts[tuple(sample.labels[label] for label in labels)] += round(sample.value)
        return counts
