"""The chart as a dependency of another, and values as `helm --set` hands them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from oodguard.server.settings import ENV_PREFIX, ServeSettings
from tests.helm.charts import CHART, KUBERNETES, Document, Render, Rendered, Run, value_set
from tests.helm.test_manifests import check

CLIENTS = "networkPolicy.clients[0].podSelector.matchLabels.app=shop"


@pytest.fixture
def parent(helm: Run, tmp_path: Path) -> Path:
    """A chart with two gateways, each with a condition, one under another name."""
    folder = tmp_path / "shop"
    (folder / "templates").mkdir(parents=True)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    dependency = {"name": "oodguard", "version": version, "repository": f"file://{CHART}"}
    chart = {
        "apiVersion": "v2",
        "name": "shop",
        "version": "1.0.0",
        "icon": "https://example.com/icon.png",
        "dependencies": [
            {**dependency, "condition": "oodguard.enabled"},
            {**dependency, "alias": "strict", "condition": "strict.enabled"},
        ],
    }
    values = {
        "global": {"environment": "test"},
        "oodguard": {"enabled": True, "bundle": {"image": {"reference": "r:1"}}},
        "strict": {
            "enabled": True,
            "bundle": {"image": {"reference": "r:2"}},
            "settings": {"accept": 0.99},
            "prometheusRule": {"enabled": True},
        },
    }
    (folder / "Chart.yaml").write_text(yaml.safe_dump(chart))
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    built = helm("dependency", "build", folder)
    assert built.returncode == 0, built.stderr
    return folder


def rendered(helm: Run, chart: Path, *arguments: str | Path) -> Rendered:
    ran = helm("template", "rel", chart, "--namespace", "prod", "--kube-version", KUBERNETES, *arguments)
    if ran.returncode:
        raise ValueError(ran.stderr)
    return Rendered([d for d in yaml.safe_load_all(ran.stdout) if d])


def names(documents: list[Document], kind: str) -> set[str]:
    return {d["metadata"]["name"] for d in documents if d["kind"] == kind}


def test_it_is_a_dependency_that_conditions_switch(helm: Run, parent: Path) -> None:
    both = rendered(helm, parent).documents
    for document in both:
        check(document)
    assert names(both, "Deployment") == {"rel-oodguard", "rel-strict"}
    environments = {
        d["metadata"]["name"]: d["data"]
        for d in both
        if d["kind"] == "ConfigMap" and "OODGUARD_SERVE_BUNDLE" in d["data"]
    }
    assert environments["rel-strict"]["OODGUARD_SERVE_ACCEPT"] == "0.99"
    assert "OODGUARD_SERVE_ACCEPT" not in environments["rel-oodguard"]
    one = rendered(helm, parent, "--set", "strict.enabled=false").documents
    assert names(one, "Deployment") == {"rel-oodguard"}
    assert {d["metadata"]["name"] for d in one} == {n for n in {d["metadata"]["name"] for d in both} if "oodg" in n}
    assert rendered(helm, parent, "--set", "strict.enabled=false,oodguard.enabled=false").documents == []
    linted = helm("lint", "--strict", "--kube-version", KUBERNETES, parent)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_what_a_dependency_refuses_it_still_refuses(helm: Run, parent: Path) -> None:
    with pytest.raises(ValueError, match="additional properties 'enable' not allowed"):
        rendered(helm, parent, "--set", "oodguard.enable=true")
    with pytest.raises(ValueError, match=r"bundle\.source is image; name the image"):
        rendered(helm, parent, "--set", "oodguard.bundle.image.reference=")
    with pytest.raises(ValueError, match="run helm uninstall to remove the release"):
        rendered(helm, CHART, "--values", value_set("cpu"), "--set", "enabled=false")


def test_set_takes_every_kind_of_setting(helm: Run) -> None:
    given = {
        "max_delay": "0.004",
        "accept": "0.9",
        "sample_rate": ".25",
        "request_timeout": "12.50",
        "stall_after": "1e-1",
        "drain_timeout": "45",
        "max_queue_bytes": "300000000",
        "page": "false",
        "log_level": "info",
    }
    assignments = [f"settings.{name}={value}" for name, value in given.items()]
    found = rendered(helm, CHART, "--values", value_set("cpu"), "--set", ",".join(assignments))
    environment = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in found.environment.items()
        if name.removeprefix(ENV_PREFIX).lower() in given
    }
    assert environment == given
    fields = {name: ServeSettings.model_fields[name].annotation for name in given}
    settings = ServeSettings.model_validate({**environment, "bundle": "b"})
    assert (settings.max_delay, settings.accept, settings.stall_after) == (0.004, 0.9, 0.1), fields
    assert found.one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 65
    rules = rendered(
        helm, CHART, "--values", value_set("cpu"), "--set", "prometheusRule.enabled=true,prometheusRule.objective=0.99"
    ).one("PrometheusRule")
    limits = {r["record"]: r["expr"] for g in rules["spec"]["groups"] for r in g["rules"] if "record" in r}
    assert limits["oodguard:limit:objective"] == "vector(0.99)"


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("settings.accept=1.5", "does not match pattern"),
        ("settings.accept=nine", "does not match pattern"),
        ("settings.max_delay=-0.5", "does not match pattern"),
        ("settings.max_queue=1.5", "got string, want integer"),
        ("prometheusRule.drift=1.2", "does not match pattern"),
        ("prometheusRule.promiseImages=10", "minimum: got 10, want 1,000"),
        # A whole number, which --set hands over as another type than a file of values does.
        ("podDisruptionBudget.maxUnavailable=2", "lets all 2 pods go at once"),
        ("resources.limits.memory=1Gi", "may take 1112 MiB"),
        ("grpc.enabled=true,resources.limits.memory=1500Mi", "may take 1624 MiB"),
    ],
)
def test_set_is_refused_what_cannot_be_meant(helm: Run, assignment: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rendered(helm, CHART, "--values", value_set("cpu"), "--set", assignment)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([], "64m"),
        (["settings.max_body_bytes=100000000"], "96m"),
        (["ingress.bodySize=8m"], "8m"),
        (["ingress.bodySize=0"], "0"),
        ([r"ingress.annotations.nginx\.ingress\.kubernetes\.io/proxy-body-size=5g"], "5g"),
    ],
)
def test_an_ingress_lets_through_what_the_gateway_takes(helm: Run, values: list[str], size: str) -> None:
    common = ["ingress.enabled=true", "ingress.hosts={guard.example.com}", CLIENTS]
    ingress = rendered(helm, CHART, "--values", value_set("cpu"), "--set", ",".join([*common, *values])).one("Ingress")
    check(ingress)
    annotations: dict[str, Any] = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == size
    if not any("annotations" in value for value in values):
        assert annotations["nginx.org/client-max-body-size"] == size


@pytest.mark.parametrize(
    ("limit", "holds"), [("1112Mi", True), ("1111Mi", False), ("1.1Gi", True), ("1.1G", False), ("1200000000", True)]
)
def test_limits_of_memory_are_compared_in_every_unit(helm: Run, limit: str, holds: bool) -> None:
    def render(*more: str) -> Rendered:
        memory = f"resources.limits.memory={limit}"
        return rendered(helm, CHART, "--values", value_set("cpu"), "--set-string", memory, *more)

    if holds:
        assert render().gateway["resources"]["limits"]["memory"] == limit
        return
    with pytest.raises(ValueError, match="may take 1112 MiB"):
        render()
    assert (
        render("--set", "settings.max_decode_bytes=200000000,settings.max_pixels=30000000").gateway["resources"][
            "limits"
        ]["memory"]
        == limit
    )


def test_a_body_size_in_bytes_stays_a_number_of_bytes(render: Render) -> None:
    values = {"ingress": {"enabled": True, "hosts": ["a.b"], "bodySize": 100_000_000},
              "networkPolicy": {"clients": [{"podSelector": {}}]}}  # fmt: skip
    annotations = render("cpu", values).one("Ingress")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "100000000"


def test_idle_connections_outlive_those_of_usual_proxies() -> None:
    # 60 s: nginx, HAProxy, Envoy's cloud balancers and the application load balancers of AWS.
    assert ServeSettings(bundle=Path("b")).keep_alive > 60
