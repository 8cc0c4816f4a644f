"""Every value set renders to manifests that Kubernetes takes, and that keep the restricted profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator

from tests.helm.charts import CHART, KUBERNETES, Document, Render, Run, value_set, value_sets
from tests.helm.custom_resources import SCHEMAS


def check(document: Document) -> None:
    """Validate against the schema of Kubernetes or of the custom resource; an unknown kind fails."""
    schema = SCHEMAS.get(document["kind"])
    if schema is None:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    else:
        Draft202012Validator(schema).validate(document)


def pods(document: Document) -> list[Document]:
    """The pod specifications in an object."""
    if document["kind"] == "Pod":
        return [document["spec"]]
    if document["kind"] == "Deployment":
        return [document["spec"]["template"]["spec"]]
    return []


def restricted(pod: Document) -> None:
    """The "restricted" Pod Security Standard, a read-only root, and no token."""
    assert pod["automountServiceAccountToken"] is False
    # A Service named oodguard-serve would otherwise set variables that the server refuses.
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, container["name"]
        assert own["readOnlyRootFilesystem"] is True, container["name"]
        assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
        assert own.get("runAsUser", 1) > 0
        assert not any("hostPort" in port for port in container.get("ports", []))
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_there_are_sets_for_what_matters() -> None:
    assert {"cpu", "gpu", "triton-sidecar", "triton-deployment", "pvc", "keda", "open"} <= set(value_sets())
    assert len(value_sets()) >= 10


@pytest.mark.parametrize("name", value_sets())
def test_a_value_set_lints_and_renders_to_valid_restricted_manifests(name: str, helm: Run, render: Render) -> None:
    linted = helm("lint", "--strict", CHART, "--values", value_set(name))
    assert linted.returncode == 0, linted.stdout + linted.stderr
    rendered = render(name)
    names = [(d["kind"], d["metadata"]["name"]) for d in rendered.documents]
    assert len(names) == len(set(names))
    for document in rendered.documents:
        check(document)
        for pod in pods(document):
            restricted(pod)
            defined = {volume["name"] for volume in pod["volumes"]}
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= defined


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(intervall="15s")),
        ("PrometheusRule", lambda spec: spec["groups"][0]["rules"][0].update({"for": "1 minute"})),
        ("Deployment", lambda spec: spec["template"]["spec"].update(nodeSelecter={})),
    ],
)
def test_the_checks_refuse_what_is_wrong(kind: str, harm: Any, render: Render) -> None:
    document = next(d for d in render("production").documents if d["kind"] == kind)
    check(document)
    harm(document["spec"])
    with pytest.raises(Exception, match=r"(?i)unexpected|not allowed|does not match|additional"):
        check(document)


def test_selectors_find_their_pods_and_nothing_else(render: Render) -> None:
    documents = render("triton-deployment", {"serviceMonitor": {"enabled": True}}).documents
    templates = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in documents
        if d["kind"] == "Deployment"
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in templates.items() if selector.items() <= labels.items()}

    expected = {
        ("Service", "rel-oodguard"): {"rel-oodguard"},
        ("Service", "rel-oodguard-metrics"): {"rel-oodguard"},
        ("Service", "rel-oodguard-triton-0"): {"rel-oodguard-triton-0"},
        ("Service", "rel-oodguard-triton-1"): {"rel-oodguard-triton-1"},
        ("Deployment", "rel-oodguard"): {"rel-oodguard"},
        ("Deployment", "rel-oodguard-triton-0"): {"rel-oodguard-triton-0"},
        ("Deployment", "rel-oodguard-triton-1"): {"rel-oodguard-triton-1"},
        ("PodDisruptionBudget", "rel-oodguard"): {"rel-oodguard"},
        ("PodDisruptionBudget", "rel-oodguard-triton"): {"rel-oodguard-triton-0", "rel-oodguard-triton-1"},
        ("NetworkPolicy", "rel-oodguard"): {"rel-oodguard"},
        ("NetworkPolicy", "rel-oodguard-triton"): {"rel-oodguard-triton-0", "rel-oodguard-triton-1"},
    }
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector and document["kind"] != "ServiceMonitor":
            found[document["kind"], document["metadata"]["name"]] = selected(selector.get("matchLabels", selector))
    assert found == expected

    services = {d["metadata"]["name"]: d["metadata"]["labels"] for d in documents if d["kind"] == "Service"}
    monitored = {
        d["metadata"]["name"]: {
            name for name, labels in services.items() if d["spec"]["selector"]["matchLabels"].items() <= labels.items()
        }
        for d in documents
        if d["kind"] == "ServiceMonitor"
    }
    assert monitored == {
        "rel-oodguard": {"rel-oodguard-metrics"},
        "rel-oodguard-triton": {"rel-oodguard-triton-0", "rel-oodguard-triton-1"},
    }


def test_ports_that_are_named_exist(render: Render) -> None:
    for name in value_sets():
        documents = render(name).documents
        named = {
            port["name"]
            for document in documents
            for pod in pods(document)
            for container in [*pod.get("initContainers", []), *pod["containers"]]
            for port in container.get("ports", [])
        }
        wanted = set()
        for document in documents:
            if document["kind"] == "Service":
                wanted |= {port["targetPort"] for port in document["spec"]["ports"]}
            if document["kind"] == "NetworkPolicy":
                rules = [*document["spec"]["ingress"], *document["spec"]["egress"]]
                wanted |= {p["port"] for rule in rules for p in rule.get("ports", []) if isinstance(p["port"], str)}
            for pod in pods(document):
                for container in [*pod.get("initContainers", []), *pod["containers"]]:
                    wanted |= {container[p]["httpGet"]["port"] for p in container if p.endswith("Probe")}
        assert wanted <= named, name


def test_the_packaged_chart_renders_alone(helm: Run, tmp_path: Path) -> None:
    packaged = helm("package", CHART, "--destination", tmp_path)
    assert packaged.returncode == 0, packaged.stderr
    archive = next(tmp_path.glob("oodguard-*.tgz"))
    ran = helm("template", "rel", archive, "--values", value_set("production"))
    assert ran.returncode == 0, ran.stderr
    assert "oodguard.json" in ran.stdout


def test_a_shadow_brings_its_bundle_and_a_webhook_its_secret(render: Render) -> None:
    rendered = render("shadow")
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    fetched = {one["name"]: one for one in pod["initContainers"]}
    assert fetched["fetch-shadow"]["command"][-2:] == [":s3:models/photos-8", "/shadow/current"]
    assert fetched["fetch-bundle"]["command"][-1] == "/bundles/current"
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered.gateway["volumeMounts"]}
    assert (mounts["bundle"], mounts["shadow"], mounts["webhook"]) == ("/bundles", "/shadow", "/etc/oodguard/webhook")
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "webhook")
    assert (secret["secretName"], secret["items"]) == ("webhook", [{"key": "secret", "path": "secret"}])
    environment = rendered.environment
    given = {name: environment[f"OODGUARD_SERVE_{name}"] for name in ("SHADOW", "SHADOW_SHARE", "SAMPLE_WEBHOOK",
             "SAMPLE_WEBHOOK_SECRET", "SHADOW_MAX_BYTES")}  # fmt: skip
    assert given == {
        "SHADOW": "/shadow/current",
        "SHADOW_SHARE": "0.25",
        "SAMPLE_WEBHOOK": "https://review.example.com/flagged",
        "SAMPLE_WEBHOOK_SECRET": "/etc/oodguard/webhook/secret",
        "SHADOW_MAX_BYTES": "16777216",
    }
    ports = [entry["ports"] for entry in rendered.one("NetworkPolicy")["spec"]["egress"]]
    # Name servers, the bucket, the receiver, and nothing else.
    assert [[port["port"] for port in entry] for entry in ports] == [[53, 53], [443], [8443]]
    claimed = {"source": "pvc", "path": "/eight", "pvc": {"claim": "models"}, "objectStorage": {"url": ""}}
    rendered = render("shadow", {"shadow": {"bundle": claimed}})
    assert rendered.environment["OODGUARD_SERVE_SHADOW"] == "/shadow/eight"
    claimed["pvc"] = {"claim": "models", "release": "photos-9"}
    rendered = render("shadow", {"shadow": {"bundle": claimed}})
    assert rendered.environment["OODGUARD_SERVE_SHADOW"] == "/shadow/eight/photos-9"
    off = render("cpu")
    assert not [name for name in off.environment if "SHADOW" in name or "WEBHOOK" in name]
    # As `helm --set shadow.share=0.2` gives it.
    assert render("shadow", {"shadow": {"share": "0.2"}}).environment["OODGUARD_SERVE_SHADOW_SHARE"] == "0.2"


@pytest.mark.parametrize(
    ("release", "served"),
    [("current", "/bundles/photos/current"), ("photos-8", "/bundles/photos/photos-8"), ("", "/bundles/photos")],
)
def test_a_claim_of_several_releases_serves_the_one_that_is_named(release: str, served: str, render: Render) -> None:
    rendered = render("pvc", {"bundle": {"pvc": {"release": release}}})
    assert rendered.environment["OODGUARD_SERVE_BUNDLE"] == served
    mounts = {mount["name"]: mount for mount in rendered.gateway["volumeMounts"]}
    # All of the claim, so that a link that is swapped is seen; and nothing that a pod could promote.
    assert (mounts["bundle"]["mountPath"], mounts["bundle"]["readOnly"]) == ("/bundles", True)
    assert "subPath" not in mounts["bundle"]
