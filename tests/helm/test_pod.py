"""The gateway, started as the rendered Deployment says, through start, ready, rotation of keys, drain and stop."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from oodguard.core.manifest import load_manifest
from oodguard.load_tests.process import free_ports, wait_until
from oodguard.load_tests.real_triton import server_folder
from oodguard.server.keys import digest
from tests.helm.charts import Render, Rendered
from tests.helm.pod import Pod, probe, status_of, wait_until_started


def confinable() -> bool:
    """Whether this machine lets us make namespaces and mounts."""
    if os.geteuid() or sys.platform != "linux" or not shutil.which("setpriv"):
        return False
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(not confinable(), reason="needs root on Linux, to make the file system of a container")


def values(**more: Any) -> dict[str, Any]:
    http, admin = free_ports(2)
    return {
        "ports": {"http": http, "admin": admin},
        # The same number outside, so that the address in the pod of helm test leads here.
        "service": {"port": http},
        "settings": {"drain_delay": 4, "log_level": "info"},
        **more,
    }


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        if process.poll() is None:
            process.kill()
        process.communicate()


def key_of(rendered: Rendered) -> str:
    return base64.b64decode(rendered.one("Secret")["data"]["api-key"]).decode()


def ask(rendered: Rendered, image: bytes, key: str | None) -> httpx.Response:
    headers = {"content-type": "image/png", **({"x-api-key": key} if key else {})}
    port = rendered.gateway["ports"][0]["containerPort"]
    return httpx.post(f"http://127.0.0.1:{port}/predict", content=image, headers=headers, timeout=30)


def test_the_gateway_lives_as_its_deployment_says(
    render: Render, bundle: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    rendered = render("cpu", values())
    deployment = rendered.one("Deployment")
    pod = Pod(rendered, deployment, tmp_path, images={"registry.example.com/photos-bundle:7": {"/bundle": bundle}})
    # The init container copies the bundle from its image with the image's own cp.
    pod.initialise()
    assert (pod.volumes["bundle"] / "current" / "manifest.json").is_file()

    gateway = rendered.gateway
    process = pod.run(gateway, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.append(process)
    assert pod.environment(gateway)["OODGUARD_SERVE_SESSIONS"] == "2"
    wait_until_started(gateway, process)
    assert probe(gateway, "readiness")
    assert probe(gateway, "liveness")

    # As the security context says: the user, no capabilities, no new privileges, a root that cannot be written.
    status = status_of(process)
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
    writable = {
        fields[4] for fields in mounts if fields[5].startswith("rw") and not fields[4].startswith(("/dev", "/proc"))
    }
    assert writable == {"/tmp"}

    image = (bundle / load_manifest(bundle).golden[0].path).read_bytes()
    key = key_of(rendered)
    assert ask(rendered, image, None).status_code == 401
    answer = ask(rendered, image, key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == {"name": "discs", "version": "7"}

    # A key that is replaced in the Secret is taken over without a restart.
    volume = next(v for v in pod.spec["volumes"] if v["name"] == "keys")
    pod.project(volume, pod.volumes["keys"], {"keys": f"bob:{digest('og_other')}"})
    deadline = time.monotonic() + 20
    while ask(rendered, image, "og_other").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ask(rendered, image, key).status_code == 401

    # The end: readiness turns red while requests are still answered, then exit 0, all within the grace period.
    process.send_signal(signal.SIGTERM)
    ended = time.monotonic()
    readiness = gateway["readinessProbe"]
    served = 0
    while probe(gateway, "readiness"):
        assert time.monotonic() - ended < readiness["periodSeconds"] * readiness["failureThreshold"]
        time.sleep(0.05)
    while time.monotonic() - ended < 3:
        assert ask(rendered, image, "og_other").status_code == 200
        assert probe(gateway, "liveness")
        served += 1
    assert served > 0
    grace = pod.spec["terminationGracePeriodSeconds"]
    assert process.wait(grace) == 0
    assert time.monotonic() - ended < grace
    assert not probe(gateway, "liveness")


def test_triton_lives_beside_the_gateway_and_longer(
    render: Render,
    bundle: Path,
    repository: Path,
    triton_home: Path,
    tmp_path: Path,
    running: list[subprocess.Popen[str]],
) -> None:
    http, grpc, metrics = free_ports(3)
    beside = {
        "ports": {"http": http, "grpc": grpc, "metrics": metrics},
        "gpu": {"enabled": False},
        # The server's own metrics of GPUs, of which there is none.
        "extraArgs": ["--allow-gpu-metrics=false"],
    }
    rendered = render("triton-sidecar", values(triton=beside))
    # The wheel's server lies where the image has its own.
    server = server_folder(triton_home)
    image = "nvcr.io/nvidia/tritonserver:26.09-py3"
    pod = Pod(
        rendered,
        rendered.one("Deployment"),
        tmp_path,
        images={
            "registry.example.com/photos-bundle:7": {"/bundle": bundle},
            "registry.example.com/photos-repository:7": {"/models": repository},
            image: {
                "/opt/tritonserver": server,
                # Where its libraries are, seen from there.
                "/nvidia_pytriton.libs": server.parents[1] / "nvidia_pytriton.libs",
                str(triton_home): triton_home,
            },
        },
        image_environment={
            image: {
                "PATH": f"/opt/tritonserver/bin:{triton_home}/bin:/usr/bin:/bin",
                "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            }
        },
    )
    pod.initialise(running)
    (triton,) = running
    container = next(c for c in pod.spec["initContainers"] if c["name"] == "triton")
    assert probe(container, "readiness")
    assert probe(container, "liveness")
    assert status_of(triton)["Uid"].split() == ["10001"] * 4

    gateway = rendered.gateway
    assert not any(name.endswith("_SESSIONS") for name in pod.environment(gateway))
    process = pod.run(gateway, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.append(process)
    wait_until_started(gateway, process)
    golden = load_manifest(bundle).golden[0]
    picture = (bundle / golden.path).read_bytes()
    answer = ask(rendered, picture, key_of(rendered))
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"][0]
    assert (found["label"], found["is_ood"]) == (golden.label, golden.is_ood)

    # The kubelet ends native sidecars after the containers: requests are answered to the gateway's last.
    process.send_signal(signal.SIGTERM)
    ended = time.monotonic()
    while time.monotonic() - ended < 3:
        assert ask(rendered, picture, key_of(rendered)).status_code == 200
    assert process.wait(pod.spec["terminationGracePeriodSeconds"]) == 0
    assert probe(container, "readiness")
    triton.send_signal(signal.SIGTERM)
    assert triton.wait(pod.spec["terminationGracePeriodSeconds"]) == 0


def test_a_shadow_judges_beside_the_gateway_in_the_same_container(
    render: Render, bundle: Path, newer: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    claim = tmp_path / "claim"
    shutil.copytree(newer, claim / "eight")
    (webhook,) = free_ports(1)
    more = values(
        shadow={"share": 1, "bundle": {"source": "pvc", "path": "/eight", "pvc": {"claim": "models"},
                                       "objectStorage": {"url": ""}}},
        sampleWebhook={"url": f"http://127.0.0.1:{webhook}/"},
    )  # fmt: skip
    rendered = render("shadow", more)
    key = key_of(rendered)
    secret = base64.b64encode(b"whsec_" + base64.b64encode(bytes(32))).decode()
    rendered.documents.append({"kind": "Secret", "metadata": {"name": "webhook"}, "data": {"secret": secret}})
    pod = Pod(
        rendered,
        rendered.one("Deployment"),
        tmp_path / "gateway",
        images={"registry.example.com/photos-bundle:7": {"/bundle": bundle}},
        claims={"models": claim},
    )
    pod.initialise()
    process = pod.run(rendered.gateway, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.append(process)
    wait_until_started(rendered.gateway, process)
    private = f"http://127.0.0.1:{rendered.gateway['ports'][1]['containerPort']}"
    judging = {"state": "judging", "share": 1.0, "model": {"name": "discs", "version": "8"}, "problem": None}
    headers = {"x-api-key": key}
    wait_until(lambda: httpx.get(f"{private}/admin/shadow", headers=headers).json() == judging)
    image = (bundle / load_manifest(bundle).golden[0].path).read_bytes()
    assert ask(rendered, image, key).json()["model"]["version"] == "7"
    counted = 'oodguard_shadow_images_total{result="judged"} 1.0'
    wait_until(lambda: counted in httpx.get(f"{private}/metrics").text)


def test_flagged_images_land_on_the_claim(
    render: Render, bundle: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    claim = tmp_path / "claim"
    claim.mkdir()
    # As fsGroup makes it.
    os.chown(claim, 0, 10001)
    claim.chmod(0o2775)
    settings = {"drain_delay": 4, "sample_rate": 1}
    rendered = render("cpu", values(settings=settings, sampleDir={"claim": "kept", "path": "tills"}))
    bundles = {"registry.example.com/photos-bundle:7": {"/bundle": bundle}}
    pod = Pod(rendered, rendered.one("Deployment"), tmp_path / "pod", images=bundles, claims={"kept": claim})
    pod.initialise()
    process = pod.run(rendered.gateway, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.append(process)
    wait_until_started(rendered.gateway, process)
    image = (bundle / load_manifest(bundle).golden[0].path).read_bytes()
    port = rendered.gateway["ports"][0]["containerPort"]
    headers = {"content-type": "image/png", "x-api-key": key_of(rendered)}
    # At so low a target an image is flagged unless it is the most usual one.
    url = f"http://127.0.0.1:{port}/predict?accept=0.01"
    found = httpx.post(url, content=image, headers=headers, timeout=30).json()["predictions"][0]
    assert found["is_ood"]
    wait_until(lambda: any(file.read_bytes() == image for file in claim.glob("tills/**/*.jpg")))


def test_helm_test_asks_and_is_answered(
    render: Render, bundle: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "claim" / "photos"
    shutil.copytree(bundle, folder / "current")
    rendered = render("pvc", values())
    pod = Pod(rendered, rendered.one("Deployment"), tmp_path / "gateway", claims={"bundles": tmp_path / "claim"})
    process = pod.run(rendered.gateway, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.append(process)
    wait_until_started(rendered.gateway, process)

    asking = Pod(rendered, rendered.one("Pod"), tmp_path / "test", hosts=("rel-oodguard",))

    def helm_test() -> tuple[int, str]:
        started = asking.run(asking.spec["containers"][0], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = started.communicate(timeout=60)
        return started.returncode, output

    code, output = helm_test()
    assert code == 0, output
    assert output.startswith("a caller without a key is refused\ndiscs 7: "), output
    assert output.endswith("distribution\n")

    # A bundle that is replaced on the claim is taken over, though the pod sees the claim read-only.
    new = folder / "new"
    shutil.copytree(bundle, new)
    manifest = new / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "7"', '"version": "8"', 1))
    (folder / "current").rename(folder / "old")
    new.rename(folder / "current")
    deadline = time.monotonic() + 20
    while "discs 8: " not in output:
        assert time.monotonic() < deadline, output
        code, output = helm_test()

    # It fails where it should: no gateway behind the Service.
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    code, output = helm_test()
    assert code != 0, output
