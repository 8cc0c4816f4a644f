"""Installing, upgrading and removing with the real helm: the generated key stays, and pods roll when they must."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oodguard.server.keys import KeyRing
from tests.helm.charts import CHART, Document, Run, value_set
from tests.helm.cluster import Cluster

Release = Callable[..., str]


@pytest.fixture
def release(helm: Run, cluster: Cluster, tmp_path: Path) -> Release:
    """Run a verb of helm on the release `rel`, with values; its output."""

    def run(verb: str, values: dict[str, Any] | None = None) -> str:
        arguments = ["rel", "--namespace", "prod"]
        if verb != "uninstall":
            path = tmp_path / "values.yaml"
            path.write_text(yaml.safe_dump(values or {}))
            arguments += [str(CHART), "-f", str(value_set("cpu")), "-f", str(path), "--disable-openapi-validation"]
        ran = helm(verb, *arguments, KUBECONFIG=str(cluster.kubeconfig))
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def secret(cluster: Cluster, name: str = "rel-oodguard-key") -> dict[str, str]:
    found = cluster.find("Secret", name)
    assert found is not None
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def annotations(cluster: Cluster) -> Document:
    found = cluster.find("Deployment", "rel-oodguard")
    assert found is not None
    return dict(found["spec"]["template"]["metadata"]["annotations"])


def test_the_generated_key_is_what_the_server_expects_and_the_operator_can_read(
    release: Release, cluster: Cluster, tools: Path
) -> None:
    notes = release("install")
    made = secret(cluster)
    key = made["api-key"]
    assert made["keys"] == f"default:{hashlib.sha256(key.encode()).hexdigest()}"
    # 43 letters and digits: 256 bits.
    assert len(key.removeprefix("og_")) == 43
    ring = KeyRing(hashes=made["keys"])
    found = ring.who(None, key)
    assert found is not None
    assert found.name == "default"
    assert ring.who(None, key[:-1]) is None
    # The command that the notes give, with the real kubectl.
    command = next(line.strip() for line in notes.splitlines() if line.strip().startswith("KEY="))
    ran = subprocess.run(
        ["bash", "-c", f"{command}; printf %s $KEY"],
        env={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "KUBECONFIG": str(cluster.kubeconfig),
            # Without a home kubectl keeps its cache in the working folder.
            "HOME": str(cluster.kubeconfig.parent),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == key
    # The pod is given the hash alone.
    deployment = cluster.find("Deployment", "rel-oodguard")
    assert deployment is not None
    volumes = {v["name"]: v for v in deployment["spec"]["template"]["spec"]["volumes"]}
    assert [item["key"] for item in volumes["keys"]["secret"]["items"]] == ["keys"]


def test_an_upgrade_keeps_the_key_and_rolls_nothing_by_itself(release: Release, cluster: Cluster) -> None:
    release("install")
    before, rolled = secret(cluster), annotations(cluster)
    release("upgrade")
    assert secret(cluster) == before
    assert annotations(cluster) == rolled


def test_a_changed_setting_or_key_rolls_the_pods(release: Release, cluster: Cluster) -> None:
    release("install")
    first = annotations(cluster)
    release("upgrade", {"settings": {"max_queue": 200}})
    second = annotations(cluster)
    assert second["checksum/config"] != first["checksum/config"]
    assert second["checksum/keys"] == first["checksum/keys"]
    release("upgrade", {"settings": {"max_queue": 200}, "keys": {"name": "renamed"}})
    assert annotations(cluster)["checksum/keys"] != first["checksum/keys"]
    # A replaced bundle image rolls them by its reference, and replicas do not.
    third = annotations(cluster)
    release("upgrade", {"settings": {"max_queue": 200}, "keys": {"name": "renamed"}, "replicas": 5})
    assert annotations(cluster) == third


def test_the_key_outlives_the_release(release: Release, cluster: Cluster) -> None:
    release("install")
    before = secret(cluster)
    assert "rel-oodguard-key" in release("uninstall")
    assert cluster.find("Deployment", "rel-oodguard") is None
    release("install")
    assert secret(cluster) == before


def test_keys_of_ones_own_roll_the_pods_when_they_changed(release: Release, cluster: Cluster) -> None:
    path = "/api/v1/namespaces/prod/secrets/callers"

    def own(text: str) -> None:
        data = {"keys": base64.b64encode(text.encode()).decode()}
        cluster.put(path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "callers"}, "data": data})

    values = {"keys": {"mode": "existing", "existing": {"secret": "callers"}}}
    own(f"alice:{'0' * 64}")
    release("install", values)
    assert cluster.find("Secret", "rel-oodguard-key") is None
    first = annotations(cluster)
    release("upgrade", values)
    assert annotations(cluster) == first
    own(f"bob:{'1' * 64}")
    release("upgrade", values)
    assert annotations(cluster)["checksum/keys"] != first["checksum/keys"]


def test_the_clusters_version_is_asked_for(helm: Run, tmp_path: Path) -> None:
    old = Cluster(tmp_path, version="v1.28.9")
    try:
        ran = helm("install", "rel", CHART, "-f", value_set("cpu"), KUBECONFIG=str(old.kubeconfig))
    finally:
        old.close()
    assert ran.returncode != 0
    assert "incompatible with Kubernetes v1.28.9" in ran.stderr
