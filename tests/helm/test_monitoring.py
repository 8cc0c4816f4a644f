"""Alerts, dashboard and scaling ask for metrics that the server really exports, by labels it really sets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from charts import CHART, Render

from oodguard.export.contract import load_manifest
from oodguard.server.app import create_gateway
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings

# What Prometheus and the operator add to every series of a pod.
TARGET = {"namespace", "service", "pod", "job", "instance", "container", "endpoint"}
RULES = Path(__file__).parent / "alerts_test.yaml"


@pytest.fixture(scope="session")
def exported(bundle: Path) -> dict[str, set[str]]:
    """Every series of the server with its labels."""
    settings = ServeSettings(bundle=bundle, watch=False)
    metrics = create_gateway(settings, engine=FakeEngine(bundle, load_manifest(bundle))).service.metrics
    metrics.requests.labels("/predict", "200").inc()
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics and labels that a query names; it must parse."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> bool:
        vector = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(vector, promql_parser.VectorSelector):
            found.append((vector.name, {matcher.name for matcher in vector.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(query), pre_visit=visit)
    yield from found


def require(query: str, exported: dict[str, set[str]]) -> None:
    names = list(selectors(query))
    assert names, query
    for name, labels in names:
        assert name in exported, f"the server exports no {name}: {query}"
        assert labels <= exported[name] | TARGET, f"{name} has no label {labels - exported[name] - TARGET}: {query}"
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        known = set().union(*(exported[name] for name, _ in names)) | TARGET
        assert {label.strip() for label in group.split(",")} <= known, query


def test_the_check_finds_a_name_that_does_not_exist(exported: dict[str, set[str]]) -> None:
    require('sum(rate(oodguard_requests_total{status="429"}[5m]))', exported)
    with pytest.raises(AssertionError, match="oodguard_request_total"):
        require("rate(oodguard_request_total[5m])", exported)
    with pytest.raises(AssertionError, match="code"):
        require('oodguard_requests_total{code="429"}', exported)


def test_every_alert_is_about_exported_metrics_and_has_a_runbook(render: Render, exported: dict[str, set[str]]) -> None:
    runbook = (CHART / "RUNBOOK.md").read_text()
    headings = {line.removeprefix("## ").strip() for line in runbook.splitlines() if line.startswith("## ")}
    rules = [rule for group in render("production").one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    for rule in rules:
        require(rule["expr"], exported)
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook_url"] == f"https://runbooks.example.com/oodguard#{rule['alert'].lower()}"
    assert {rule["alert"] for rule in rules} == headings
    own = render("cpu", {"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"]["groups"][0]["rules"]
    assert own[0]["annotations"]["runbook"] == "RUNBOOK.md of the chart, OodguardDown"


def test_every_panel_is_about_exported_metrics(render: Render, exported: dict[str, set[str]]) -> None:
    config = next(
        d for d in render("production").documents if d["kind"] == "ConfigMap" and "oodguard.json" in d["data"]
    )
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(config["data"]["oodguard.json"])
    assert dashboard == json.loads((CHART / "files" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) >= 12
    for query in queries:
        plain = query.replace("$__rate_interval", "5m").replace("$namespace", "n").replace("$service", "s")
        require(plain, exported)
    # Panels lie beside each other, never on each other.
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    for variable in dashboard["templating"]["list"]:
        name = re.match(r"label_values\((\w+)", variable["query"])
        assert variable["type"] == "datasource" or (name and name[1] in exported)


def test_autoscalers_follow_an_exported_metric(render: Render, exported: dict[str, set[str]]) -> None:
    scaled = render("keda").one("ScaledObject")["spec"]
    require(scaled["triggers"][0]["metadata"]["query"], exported)
    assert 'service="rel-oodguard-metrics"' in scaled["triggers"][0]["metadata"]["query"]
    pods = render("prometheus-adapter").one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert pods == {
        "metric": {"name": "oodguard_queue_images"},
        "target": {"type": "AverageValue", "averageValue": "12"},
    }
    adapter = yaml.safe_load((CHART / "examples" / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    assert adapter["name"]["as"] == pods["metric"]["name"]
    assert next(selectors(adapter["seriesQuery"]))[0] in exported
    cpu = render("production").one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["containerResource"]
    assert (cpu["container"], cpu["target"]["averageUtilization"]) == ("gateway", 65)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_alerts_fire_when_they_should_and_only_then(render: Render, tmp_path: Path) -> None:
    spec = render("cpu", {"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(RULES, tmp_path / "alerts_test.yaml")
    checked = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ran = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
