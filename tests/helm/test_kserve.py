"""The examples for KServe: pods that Kubernetes takes, and a server that starts as they say."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import yaml

from oodguard.core.manifest import SCHEMA_VERSION
from oodguard.load_tests.gateway import Gateway
from oodguard.server.keys import digest
from oodguard.server.settings import ENV_PREFIX
from tests.helm.charts import CHART, Document, Render
from tests.helm.custom_resources import KSERVE_SCALING
from tests.helm.test_manifests import check, restricted

EXAMPLES = ("kserve", "kserve-runtime")


def example(name: str) -> dict[str, Document]:
    """The objects of an example, by kind."""
    documents = yaml.safe_load_all((CHART / "examples" / f"{name}.yaml").read_text())
    return {document["kind"]: document for document in documents}


def pod_of(objects: dict[str, Document]) -> Document:
    """The pod that KServe makes: the predictor's own, or with the runtime's containers, into which it puts names."""
    service, runtime = objects["InferenceService"], objects.get("ServingRuntime")
    pod = {n: v for n, v in service["spec"]["predictor"].items() if n not in (*KSERVE_SCALING, "model")}
    if runtime is not None:
        text = json.dumps({part: runtime["spec"][part] for part in ("containers", "volumes")})
        pod |= json.loads(text.replace("{{.Name}}", service["metadata"]["name"]))
    return pod


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_pods_that_kubernetes_takes(name: str, render: Render) -> None:
    objects = example(name)
    for document in objects.values():
        check(document)
    pod = pod_of(objects)
    check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "photos"}, "spec": pod})
    restricted(pod)
    container = pod["containers"][0]
    assert container["name"] == "kserve-container"
    # What the chart itself would set.
    assert container["image"] == render("cpu").gateway["image"]
    assert container["resources"] == render("cpu").gateway["resources"]
    assert "{{" not in json.dumps(pod)


def test_the_service_asks_for_what_the_runtime_offers() -> None:
    objects = example("kserve-runtime")
    runtime, model = objects["ServingRuntime"]["spec"], objects["InferenceService"]["spec"]["predictor"]["model"]
    formats = {(f["name"], f["version"]) for f in runtime["supportedModelFormats"]}
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["modelFormat"]["version"] == str(SCHEMA_VERSION)
    assert model["runtime"] == objects["ServingRuntime"]["metadata"]["name"]
    assert model["protocolVersion"] in runtime["protocolVersions"]
    admin = next(c for c in runtime["containers"])["readinessProbe"]["httpGet"]["port"]
    assert runtime["annotations"]["prometheus.kserve.io/port"] == str(admin)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_server_starts_as_the_examples_say(name: str, bundle: Path, tmp_path: Path) -> None:
    objects = example(name)
    keys = tmp_path / "keys"
    keys.write_text(f"a:{digest('key')}\n")
    # Paths of a container, ports that others may have here, and what Kubernetes would fill in.
    here = {"BUNDLE": str(bundle), "KEY_FILE": str(keys), "PORT": "0", "ADMIN_PORT": "0", "SESSIONS": "2"}
    environment = {
        entry["name"]: here.get(entry["name"].removeprefix(ENV_PREFIX)) or entry["value"]
        for entry in pod_of(objects)["containers"][0]["env"]
        if entry["name"] != "STORAGE_URI"
    }
    running = Gateway(None)
    running._environment |= {**environment, f"{ENV_PREFIX}ADMIN_PORT": "0", f"{ENV_PREFIX}DRAIN_DELAY": "0"}
    with running:
        served = objects["InferenceService"]["metadata"]["name"]
        url = f"http://127.0.0.1:{running.port}/v2/models"
        found = httpx.get(f"{url}/{served}", headers={"x-api-key": "key"})
        assert (found.status_code, found.json()["name"]) == (200, served)
        assert httpx.get(f"{url}/{served}/ready").status_code == (200 if "ServingRuntime" in objects else 401)
        assert httpx.get(f"{url}/other", headers={"x-api-key": "key"}).status_code == 404
