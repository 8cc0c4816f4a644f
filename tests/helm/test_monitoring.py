"""Rules, dashboard and scaling ask for metrics that the server really exports, by labels it really sets."""

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

from oodguard.core.manifest import load_manifest
from oodguard.server.app import create_gateway
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings
from tests.helm.charts import CHART, Render, Rendered

# What Prometheus and the operator add to every series of a pod.
TARGET = {"namespace", "service", "pod", "job", "instance", "container", "endpoint"}
RULES = Path(__file__).parent / "alerts_test.yaml"


@pytest.fixture(scope="session")
def exported(bundle: Path) -> dict[str, set[str]]:
    """Every series of the server with its labels."""
    settings = ServeSettings(bundle=bundle, watch=False)
    metrics = create_gateway(settings, engine=FakeEngine(bundle, load_manifest(bundle))).parts.metrics
    metrics.requests.labels("/predict", "200").inc()
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="session")
def known(exported: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same, and what is recorded from them; a record keeps the labels that it is grouped by."""
    found = dict(exported)
    for rule in plain_rules():
        if "record" in rule:
            group = re.search(r"\bby \(([^)]*)\)", rule["expr"])
            found[rule["record"]] = set(group[1].replace(" ", "").split(",")) - {"le"} if group else set()
    return found


def plain_rules() -> list[dict[str, Any]]:
    """The rules as they are loaded without the chart."""
    groups = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


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
    assert names or re.fullmatch(r"vector\([0-9.e+]+\)", query), query
    for name, labels in names:
        assert name in exported, f"the server exports no {name}: {query}"
        assert labels <= exported[name] | TARGET, f"{name} has no label {labels - exported[name] - TARGET}: {query}"
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        labels = set().union(*(exported[name] for name, _ in names)) | TARGET
        assert {label.strip() for label in group.split(",")} <= labels, query


def test_the_check_finds_a_name_that_does_not_exist(exported: dict[str, set[str]]) -> None:
    require('sum(rate(oodguard_requests_total{status="429"}[5m]))', exported)
    with pytest.raises(AssertionError, match="oodguard_request_total"):
        require("rate(oodguard_request_total[5m])", exported)
    with pytest.raises(AssertionError, match="code"):
        require('oodguard_requests_total{code="429"}', exported)


def test_every_rule_is_about_exported_metrics_and_every_alert_has_a_runbook(
    render: Render, known: dict[str, set[str]]
) -> None:
    runbook = (CHART / "RUNBOOK.md").read_text()
    headings = {line.removeprefix("## ").strip() for line in runbook.splitlines() if line.startswith("## ")}
    rules = rules_of(render("production"))
    for rule in rules:
        require(rule["expr"], known)
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            link = f"https://runbooks.example.com/oodguard#{rule['alert'].lower()}"
            assert rule["annotations"]["runbook_url"] == link
            assert "runbook" not in rule["annotations"]
    assert {rule["alert"] for rule in rules if "alert" in rule} == headings
    own = next(r for r in rules_of(render("cpu", {"prometheusRule": {"enabled": True}})) if "alert" in r)
    assert own["annotations"]["runbook"] == "RUNBOOK.md of the chart, OodguardDown"


def rules_of(rendered: Rendered) -> list[dict[str, Any]]:
    return [rule for group in rendered.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def test_the_charts_rules_are_the_plain_ones_about_one_release(render: Render) -> None:
    own = 'namespace="prod", job="rel-oodguard-metrics"'
    limits = {"objective": 0.99, "oodExcess": 0.2, "drift": 0.3, "promiseImages": 1_000_000}
    rendered = rules_of(render("cpu", {"prometheusRule": {"enabled": True, **limits}}))
    plain = plain_rules()
    assert [rule.get("record", rule.get("alert")) for rule in rendered] == [
        rule.get("record", rule.get("alert")) for rule in plain
    ]
    assert [rule["expr"] for rule in rendered[:4]] == ["vector(0.99)", "vector(0.2)", "vector(0.3)", "vector(1e+06)"]
    plain_limits = ["vector(0.995)", "vector(0.1)", "vector(0.15)", "vector(1000000000)"]
    assert [rule["expr"] for rule in plain[:4]] == plain_limits
    for found, given in zip(rendered[4:], plain[4:], strict=True):
        back = found["expr"].replace(own, 'job="oodguard"').replace("(namespace, job", "(job")
        assert re.sub(r"\bpod\b", "instance", back) == given["expr"]
        # Two releases in one Prometheus must never be mixed.
        for name, labels in selectors(found["expr"]):
            assert {"namespace", "job"} <= labels, (name, found)
    assert all(rule["labels"] == {"namespace": "prod", "job": "rel-oodguard-metrics"} for rule in rendered[:4])


def test_every_alert_has_a_story_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    stories = yaml.safe_load(RULES.read_text())["tests"]
    told: dict[bool, set[str]] = {True: set(), False: set()}
    for story in stories:
        for expected in story.get("alert_rule_test", []):
            told[bool(expected["exp_alerts"])].add(expected["alertname"])
    alerts = {rule["alert"] for rule in plain_rules() if "alert" in rule}
    assert told == {True: alerts, False: alerts}


def test_every_panel_is_about_exported_metrics(render: Render, known: dict[str, set[str]]) -> None:
    config = next(
        d for d in render("production").documents if d["kind"] == "ConfigMap" and "oodguard.json" in d["data"]
    )
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(config["data"]["oodguard.json"])
    assert dashboard == json.loads((CHART / "files" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) >= 12
    for query in queries:
        require(query.replace("$__rate_interval", "5m"), known)
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
        assert variable["type"] == "datasource" or (name and name[1] in known)


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


PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")


@PROMTOOL
def test_the_exposition_passes_the_linter_of_prometheus(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    settings = ServeSettings(bundle=bundle, watch=False)
    metrics = create_gateway(settings, engine=FakeEngine(bundle, manifest)).parts.metrics
    text = metrics.render()
    ran = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, b"")
    # The linter is heard: what it objects to is found.
    worse = text.replace(b'oodguard_expected_share{bound="', b'oodguard_expected_share{le="')
    assert subprocess.run(["promtool", "check", "metrics"], input=worse, capture_output=True).returncode != 0


@PROMTOOL
def test_alerts_fire_when_they_should_and_only_then(render: Render, tmp_path: Path) -> None:
    spec = render("cpu", {"prometheusRule": {"enabled": True}}).one("PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(CHART / "files" / "rules.yaml", tmp_path / "plain.yaml")
    shutil.copy(RULES, tmp_path / "alerts_test.yaml")
    checked = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml", "plain.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ran = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
