"""What matters of the rendered manifests, kept as files: a change of them is seen in the diff.

UPDATE_GOLDEN=1 pytest tests/helm/test_golden.py writes them anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.helm.charts import Render, Rendered

FOLDER = Path(__file__).parent / "golden"
NAMES = ("cpu", "production", "triton-sidecar", "triton-deployment")


class Plain(yaml.SafeDumper):
    """Without anchors: a golden file is for reading."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def normal(rendered: Rendered) -> str:
    """The documents in a fixed order, without what is random and without the dashboard's text."""
    documents = sorted(rendered.documents, key=lambda d: (d["kind"], d["metadata"]["name"]))
    for document in documents:
        document.get("data", {}).pop("oodguard.json", None)
        document["metadata"]["labels"].pop("helm.sh/chart", None)
    text = yaml.dump_all(documents, Dumper=Plain, sort_keys=True, width=200)
    text = re.sub(r"(api-key|keys): [A-Za-z0-9+/=]{40,}", r"\1: RANDOM", text)
    return re.sub(r"(checksum/\w+): [0-9a-f]{64}", r"\1: SHA256", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifests_are_the_ones_on_file(name: str, render: Render) -> None:
    path = FOLDER / f"{name}.yaml"
    found = normal(render(name))
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), "meant? UPDATE_GOLDEN=1 pytest tests/helm/test_golden.py"


def test_what_is_off_is_absent(render: Render) -> None:
    rendered = render("open")
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "Secret", "Ingress", "HorizontalPodAutoscaler"):
        assert not rendered.has(kind), kind
    assert not render("cpu", {"test": {"enabled": False}}).has("Pod")
    assert not render("extras").has("ServiceAccount")


def test_autoscalers_do_not_share_the_replicas(render: Render) -> None:
    assert render("cpu").one("Deployment")["spec"]["replicas"] == 2
    for name, kind in (("production", "HorizontalPodAutoscaler"), ("prometheus-adapter", "HorizontalPodAutoscaler"),
                       ("keda", "ScaledObject")):  # fmt: skip
        rendered = render(name)
        assert "replicas" not in rendered.one("Deployment")["spec"]
        assert rendered.has(kind)


def test_a_gpu_is_asked_for_and_the_cpu_refused(render: Render) -> None:
    rendered = render("gpu")
    assert rendered.gateway["resources"]["limits"] == {"memory": "6Gi", "nvidia.com/gpu": 1}
    assert rendered.environment["OODGUARD_SERVE_DEVICE"] == "cuda"
    assert "env" not in rendered.gateway
    mig = render("gpu", {"gpu": {"resource": "nvidia.com/mig-1g.18gb", "count": 2}})
    assert mig.gateway["resources"]["limits"] == {"memory": "6Gi", "nvidia.com/mig-1g.18gb": 2}


def test_sessions_follow_the_requested_cores(render: Render) -> None:
    reference = {"containerName": "gateway", "resource": "requests.cpu", "divisor": "1"}
    assert render("cpu").gateway["env"] == [
        {"name": "OODGUARD_SERVE_SESSIONS", "valueFrom": {"resourceFieldRef": reference}}
    ]
    assert "env" not in render("cpu", {"settings": {"sessions": 3}}).gateway
    assert "env" not in render("cpu", {"resources": {"requests": {"cpu": None}}}).gateway


def test_only_named_traffic_is_let_through(render: Render) -> None:
    policy = render("production").one("NetworkPolicy")["spec"]
    assert policy["egress"] == []
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    names = {
        port: {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers if
               "namespaceSelector" in peer}
        for port, peers in by_port.items()
    }  # fmt: skip
    assert names == {"http": {"ingress-nginx"}, "admin": {"monitoring"}}
    stored = render("object-storage").one("NetworkPolicy")["spec"]
    assert {p["port"] for rule in stored["egress"] for p in rule["ports"]} == {53, 9000}
    apart = render("triton-deployment").one("NetworkPolicy", "rel-oodguard-triton")["spec"]
    assert apart["ingress"][0] == {
        "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "oodguard",
                                                  "app.kubernetes.io/instance": "rel",
                                                  "app.kubernetes.io/component": "gateway"}}}],
        "ports": [{"port": "triton-grpc", "protocol": "TCP"}],
    }  # fmt: skip
    assert apart["egress"] == []


def test_the_gateway_is_given_the_addresses_of_every_triton(render: Render) -> None:
    environment = render("triton-deployment", {"triton": {"replicas": 3}}).environment
    assert environment["OODGUARD_SERVE_ENGINE"] == "triton"
    assert environment["OODGUARD_SERVE_TRITON_URL"] == ",".join(f"rel-oodguard-triton-{i}:9001" for i in range(3))
    assert render("triton-sidecar").environment["OODGUARD_SERVE_TRITON_URL"] == "127.0.0.1:9001"
