"""What the chart refuses, and that its documents say what it does."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from helm import document
from oodguard.server.settings import ENV_PREFIX, ServeSettings
from tests.helm.charts import CHART, Render

SIDECAR = {"triton": {"mode": "sidecar", "repository": {"image": {"reference": "r:1"}}}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"bundle": {"image": {"refrence": "a"}}}, "additional properties 'refrence' not allowed"),
        ({"settings": {"max_que": 1}}, "additional properties 'max_que' not allowed"),
        ({"settings": {"port": 9000}}, "additional properties 'port' not allowed"),
        ({"settings": {"max_queue": 0}}, "minimum: got 0, want 1"),
        ({"settings": {"log_level": "loud"}}, "value must be one of"),
        ({"bundle": {"pvc": {"release": "../other"}}}, "does not match pattern"),
        ({"bundle": {"source": "nfs"}}, "value must be one of 'image', 'pvc', 'objectStorage', 'baked'"),
        ({"ports": {"http": 70000}}, "maximum: got 70,000, want 65,535"),
        ({"keys": {"name": "a b"}}, "does not match pattern"),
        ({"bundle": {"image": {"reference": ""}}}, "name the image that holds it in bundle.image.reference"),
        ({"bundle": {"source": "pvc"}}, "bundle.image.reference is set, but bundle.source is pvc"),
        (
            {"bundle": {"source": "objectStorage", "image": {"reference": ""}, "objectStorage": {"url": "s3://b"}}},
            "must be s3://bucket/folder",
        ),
        (
            {"bundle": {"source": "objectStorage", "image": {"reference": ""}, "objectStorage": {"url": "az://b/c"}}},
            "name the storage account",
        ),
        ({"terminationGracePeriodSeconds": 40}, "must be above drain_delay + drain_timeout = 40"),
        ({"terminationGracePeriodSeconds": 50, "settings": {"drain_timeout": 45}}, "drain_timeout = 55"),
        ({"settings": {"drain_delay": 1}}, "longer than drain_delay"),
        ({"ports": {"admin": 8000}}, "ports.http and ports.admin are the same"),
        ({"grpc": {"enabled": True}, "ports": {"grpc": 8000}}, "ports.grpc is the same as ports.http or ports.admin"),
        ({"grpc": {"enabled": True}, "service": {"grpcPort": 80}}, "service.grpcPort and service.port are the same"),
        ({"keys": {"mode": "existing"}}, "name the Secret in keys.existing.secret"),
        ({"keys": {"existing": {"secret": "mine"}}}, "keys.mode is generate"),
        ({"keys": {"mode": "none"}, "networkPolicy": {"enabled": False}}, "anyone in the cluster could call"),
        ({"tls": {"clientCertificates": True}}, "tls.clientCertificates needs tls.secret"),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.hosts"),
        ({"ingress": {"enabled": True, "hosts": ["a.b"]}}, "needs networkPolicy.clients"),
        ({"httpRoute": {"enabled": True}}, "needs httpRoute.parentRefs"),
        (
            {
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
                "tls": {"secret": "s"},
                "networkPolicy": {"clients": [{"podSelector": {}}]},
            },
            "needs httpRoute.backendTLS.hostname",
        ),
        ({"autoscaling": {"mode": "cpu", "minReplicas": 5, "maxReplicas": 3}}, "is above autoscaling.maxReplicas"),
        ({"autoscaling": {"mode": "cpu"}, "resources": {"requests": {"cpu": None}}}, "resources.requests.cpu"),
        ({"autoscaling": {"mode": "keda", "targetQueue": 128}}, "targetQueue is not below max_queue"),
        ({"podDisruptionBudget": {"maxUnavailable": 2}}, "lets all 2 pods go at once"),
        ({"extraEnv": [{"name": "OODGUARD_SERVE_PORT", "value": "1"}]}, "put it into settings"),
        ({"settings": {"max_files": 500}}, "max_files is larger than max_queue"),
        ({"gpu": {"enabled": True}, "settings": {"device": "cpu"}}, "contradict"),
        ({"gpu": {"enabled": True}, "settings": {"engine": "openvino"}}, "openvino runs on the CPU only"),
        ({"gpu": {"enabled": True}, **SIDECAR}, "use triton.gpu"),
        ({**SIDECAR, "settings": {"threads": 2}}, "settings.threads is for a graph that the gateway runs itself"),
        ({**SIDECAR, "ports": {"http": 9001}}, "share the pod's ports"),
        ({**SIDECAR, "ports": {"grpc": 9001}, "grpc": {"enabled": True}}, "share the pod's ports"),
        ({"triton": {"mode": "sidecar"}}, "triton.repository.image.reference"),
        ({"shadow": {"enabled": True}}, "name the image that holds it in shadow.bundle.image.reference"),
        ({"shadow": {"bundle": {"image": {"reference": "r:8"}}}}, "shadow.enabled is false; set it to true"),
        (
            {
                "shadow": {"enabled": True, "bundle": {"image": {"reference": "r:8"}}},
                "resources": {"limits": {"memory": "1Gi"}},
            },
            "resources.limits.memory is 1Gi, but images that the settings allow may take 1700 MiB",
        ),
        ({"shadow": {"share": 0}}, "exclusiveMinimum: got 0, want 0"),
        ({"shadow": {"share": "2.5"}}, "does not match pattern"),
        ({"settings": {"shadow": "/x"}}, "additional properties 'shadow' not allowed"),
        (
            {"settings": {"sample_dir": "/flagged"}},
            "settings.sample_dir is /flagged, where the pod has no volume to write to; name a claim in sampleDir.claim",
        ),
        (
            {
                "settings": {"sample_dir": "/flagged"},
                "extraVolumeMounts": [{"name": "v", "mountPath": "/flagged", "readOnly": True}],
            },
            "where the pod has no volume to write to",
        ),
        (
            {"settings": {"sample_dir": "/kept/../x"}, "extraVolumeMounts": [{"name": "v", "mountPath": "/kept"}]},
            "where the pod has no volume to write to",
        ),
        (
            {"settings": {"sample_dir": "/keptfor"}, "extraVolumeMounts": [{"name": "v", "mountPath": "/kept"}]},
            "where the pod has no volume to write to",
        ),
        ({"settings": {"sample_dir": "/x"}, "sampleDir": {"claim": "c"}}, "leave settings.sample_dir out"),
        ({"settings": {"sample_store": "s3://b/c"}, "sampleDir": {"claim": "c"}}, "leave one of them out"),
        ({"sampleDir": {"path": "photos"}}, "name the claim in sampleDir.claim"),
        ({"sampleDir": {"claim": "c", "path": "../other"}}, "does not match pattern"),
        ({"sampleWebhook": {"url": "https://a.b/c"}}, "sampleWebhook.url and sampleWebhook.secret go together"),
        ({"sampleWebhook": {"secret": "s"}}, "sampleWebhook.url and sampleWebhook.secret go together"),
        ({"sampleWebhook": {"url": "ftp://a.b/c", "secret": "s"}}, "does not match pattern"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_in_a_sentence(
    values: dict[str, Any], sentence: str, render: Render
) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as refused:
        render("cpu", values)
    assert sentence in str(refused.value)


def test_image_volumes_are_refused_where_the_cluster_is_too_old(render: Render) -> None:
    with pytest.raises(ValueError, match=r"need Kubernetes 1\.35, this cluster is v1\.34"):
        render("image-volume", kubernetes="1.34")
    volumes = render("image-volume").one("Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "bundle", "image": {"reference": "registry.example.com/photos-bundle:7",
                                        "pullPolicy": "IfNotPresent"}} in volumes  # fmt: skip


@pytest.mark.parametrize(("path", "folder"), [("", ""), ("shop/tills", "/shop/tills")])
def test_flagged_images_are_kept_on_the_claim(path: str, folder: str, render: Render) -> None:
    rendered = render("cpu", {"sampleDir": {"claim": "flagged-images", "path": path}})
    mounted = {"name": "flagged", "mountPath": "/var/lib/oodguard/flagged"}
    assert mounted in rendered.gateway["volumeMounts"]
    volumes = rendered.one("Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "flagged", "persistentVolumeClaim": {"claimName": "flagged-images"}} in volumes
    assert rendered.environment["OODGUARD_SERVE_SAMPLE_DIR"] == "/var/lib/oodguard/flagged" + folder


def test_flagged_images_may_go_to_a_volume_of_ones_own(render: Render) -> None:
    volume = {"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}
    for folder in ("/kept", "/kept/flagged"):
        rendered = render(
            "cpu",
            {
                "settings": {"sample_dir": folder},
                "extraVolumes": [volume],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/kept"}],
            },
        )
        assert rendered.environment["OODGUARD_SERVE_SAMPLE_DIR"] == folder
        assert not any(mount["name"] == "flagged" for mount in rendered.gateway["volumeMounts"])


def test_the_minimal_values_are_ten_lines_that_the_chart_takes_and_the_same_in_both_places(render: Render) -> None:
    text = (CHART / "values.yaml").read_text()
    minimal = re.search(r"\n#\n((?:#   .*\n)+)#\n", text)
    assert minimal is not None
    lines = [line.removeprefix("#   ") for line in minimal[1].splitlines()]
    assert len(lines) == 10
    values = "\n".join(lines)
    assert f"```yaml\n{values}\n```" in (CHART / "README.md").read_text()
    given = yaml.safe_load(values)
    rendered = render("baked", {**given, "bundle": {"source": "image", **given["bundle"]}})
    assert rendered.gateway["image"] == "registry.example.com/oodguard/gateway:0.2.0"
    policy = rendered.one("NetworkPolicy")["spec"]["ingress"]
    assert any("shop" in str(rule.get("from")) for rule in policy)


def test_the_grpc_port_is_closed_unless_it_is_asked_for(render: Render) -> None:
    def ports(values: dict[str, Any]) -> tuple[Any, ...]:
        rendered = render("cpu", values)
        service = next(
            d for d in rendered.documents if (d["kind"], d["metadata"]["name"]) == ("Service", "rel-oodguard")
        )
        rules = rendered.one("NetworkPolicy")["spec"]["ingress"]
        return (
            rendered.environment.get("OODGUARD_SERVE_GRPC_PORT"),
            [port["containerPort"] for port in rendered.gateway["ports"] if port["name"] == "grpc"],
            [(port["port"], port["appProtocol"]) for port in service["spec"]["ports"] if port["name"] == "grpc"],
            [port["port"] for port in rules[0]["ports"]],
        )

    assert ports({}) == (None, [], [], ["http"])
    opened = {"grpc": {"enabled": True}, "ports": {"grpc": 8082}, "service": {"grpcPort": 9999}}
    assert ports(opened) == ("8082", [8082], [(9999, "kubernetes.io/h2c")], ["http", "grpc"])
    secure = ports({**opened, "tls": {"secret": "cert"}})
    assert secure[2] == [(9999, "https")]


def test_the_grace_period_follows_the_settings(render: Render) -> None:
    def grace(values: dict[str, Any]) -> int:
        return int(render("cpu", values).one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])

    assert grace({}) == 50
    assert grace({"settings": {"drain_delay": 4.5, "drain_timeout": 60}}) == 75
    assert grace({"terminationGracePeriodSeconds": 41}) == 41


def test_what_the_chart_assumes_of_the_server_is_so(render: Render) -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    line = next(line for line in text.splitlines() if "$defaults := dict" in line)
    words = line.split("dict", 1)[1].split("-}}")[0].split()
    assumed = {name.strip('"'): float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    # The chart gives drain_delay itself.
    assert assumed.pop("drain_delay") == float(render("cpu").environment["OODGUARD_SERVE_DRAIN_DELAY"])
    for name, value in assumed.items():
        assert ServeSettings.model_fields[name].default == value, name


def test_every_setting_is_the_charts_or_may_be_given(render: Render) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["settings"] == document.settings_schema(), "run: make docs"
    assert json.dumps(schema, indent=2) + "\n" == document.write_schema(CHART)
    environment = render("gateway-api", {"settings": {"max_queue_bytes": 300_000_000, "watch": False}}).environment
    fields = {ENV_PREFIX + name.upper() for name in ServeSettings.model_fields}
    assert environment.pop("ORT_DISABLE_TELEMETRY") == "1"
    assert set(environment) <= fields
    # Not 3e+08, and not true or false in another spelling.
    assert environment["OODGUARD_SERVE_MAX_QUEUE_BYTES"] == "300000000"
    assert environment["OODGUARD_SERVE_WATCH"] == "false"


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(node: Any, part: dict[str, Any], path: str) -> None:
        if isinstance(node, dict) and part.get("properties"):
            assert part["additionalProperties"] is False, path
            expected = set(node) | ({"global"} if not path else set())
            assert expected == set(part["properties"]) or not node or path.endswith("resources"), path
            for name, value in node.items():
                compare(value, part["properties"][name], f"{path}.{name}")

    compare(values, schema, "")


def test_the_readme_lists_every_value_as_it_is() -> None:
    assert document.values_table(CHART) in (CHART / "README.md").read_text(), "run: make docs"
    assert len(list(document.values((CHART / "values.yaml").read_text()))) > 100
