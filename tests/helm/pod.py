"""A rendered pod, run on this machine as its manifest says: command, environment, files, user, read-only root."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.helm.charts import ROOT, Document, Rendered

CONFINED = ROOT / "images" / "confined.sh"
# The parts of this machine that stand for the image's file system.
SYSTEM = ("usr", "bin", "lib", "lib64", "sbin", "etc/ssl", "etc/ld.so.cache", "etc/passwd", "etc/nsswitch.conf")


class Pod:
    """One pod of a Deployment, or a bare one.

    `images` are folders that stand for what an image holds, by its reference: `{"bundle:7": {"/bundle": folder}}`;
    `claims` the same for claims; `hosts` are names that lead to this machine; `image_environment` what an image sets.
    """

    def __init__(
        self,
        rendered: Rendered,
        document: Document,
        folder: Path,
        *,
        images: dict[str, dict[str, Path]] | None = None,
        claims: dict[str, Path] | None = None,
        hosts: tuple[str, ...] = (),
        image_environment: dict[str, dict[str, str]] | None = None,
    ) -> None:
        self.rendered = rendered
        self.spec: Document = (
            document["spec"]["template"]["spec"] if document["kind"] == "Deployment" else document["spec"]
        )
        self.images = images or {}
        self.image_environment = image_environment or {}
        self.volumes: dict[str, Path] = {}
        self._root = folder / "root"
        self._root.mkdir(parents=True)
        for name in SYSTEM:
            if Path("/", name).is_symlink():
                (self._root / name).symlink_to(Path("/", name).readlink())
        self._hosts = folder / "hosts"
        self._hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *hosts)))
        for volume in self.spec["volumes"]:
            place = folder / "volumes" / volume["name"]
            if "persistentVolumeClaim" in volume:
                place = (claims or {})[volume["persistentVolumeClaim"]["claimName"]]
            else:
                place.mkdir(parents=True)
                place.chmod(0o777)
            if "secret" in volume:
                self.project(volume, place)
            self.volumes[volume["name"]] = place

    def project(self, volume: Document, place: Path, data: dict[str, str] | None = None) -> None:
        """Write a Secret as the kubelet does: into a new folder, then swapped in by renaming one link."""
        secret = volume["secret"]
        data = data or {
            name: base64.b64decode(value).decode()
            for name, value in self.rendered.one("Secret", secret["secretName"])["data"].items()
        }
        items = secret.get("items") or [{"key": name, "path": name} for name in data]
        written = place / f"..{time.time_ns()}"
        written.mkdir()
        for item in items:
            (written / item["path"]).write_text(data[item["key"]])
        (place / "..new").symlink_to(written.name)
        (place / "..new").rename(place / "..data")
        for item in items:
            link = place / item["path"]
            if not link.is_symlink():
                link.symlink_to(f"..data/{item['path']}")

    def environment(self, container: Document) -> dict[str, str]:
        """The container's environment, with every reference looked up."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.rendered.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in container.get("env", []):
            found[entry["name"]] = entry["value"] if "value" in entry else self._value(container, entry["valueFrom"])
        return found

    def _value(self, container: Document, source: Document) -> str:
        if "secretKeyRef" in source:
            secret = self.rendered.one("Secret", source["secretKeyRef"]["name"])
            return base64.b64decode(secret["data"][source["secretKeyRef"]["key"]]).decode()
        reference = source["resourceFieldRef"]
        kind, _, name = reference["resource"].partition(".")
        quantity = str(container["resources"][kind][name])
        amount = float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
        return str(math.ceil(amount / float(reference["divisor"])))

    def run(self, container: Document, **options: Any) -> subprocess.Popen[str]:
        """Start a container; the process is its command."""
        context = self.spec["securityContext"] | container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        mounts = [
            f"/{name}:/{name}" for name in SYSTEM if not Path("/", name).is_symlink() and Path("/", name).exists()
        ]
        mounts.append(f"{self._hosts}:/etc/hosts")
        for mount in container["volumeMounts"]:
            mode = "" if mount.get("readOnly") else ":rw"
            mounts.append(f"{self.volumes[mount['name']]}:{mount['mountPath']}{mode}")
        for target, source in self.images.get(container["image"], {}).items():
            mounts.append(f"{source}:{target}")
        # What the image would hold: the interpreter, its packages and our code.
        mounts += [f"{place}:{place}" for place in dict.fromkeys((sys.base_prefix, str(ROOT), sys.prefix))]
        path = f"{sys.prefix}/bin:/usr/bin:/bin"
        command = [*container["command"], *container.get("args", [])]
        return subprocess.Popen(
            [CONFINED, self._root, str(context["runAsUser"]), "/tmp", *mounts, "--", *command],
            env={
                "PATH": path,
                "PYTHONDONTWRITEBYTECODE": "1",
                **self.image_environment.get(container["image"], {}),
                **self.environment(container),
            },
            text=True,
            **options,
        )

    def initialise(self, sidecars: list[subprocess.Popen[str]] | None = None) -> None:
        """Run the init containers one after the other; of those that stay, wait until they have started."""
        for container in self.spec.get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                assert sidecars is not None
                sidecars.append(self.run(container, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                wait_until_started(container, sidecars[-1])
                continue
            process = self.run(container, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output


def probe(container: Document, kind: str) -> bool:
    """Ask what a probe of the container asks."""
    asked = container[f"{kind}Probe"]["httpGet"]
    port = next(p["containerPort"] for p in container["ports"] if p["name"] == asked["port"])
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{port}{asked['path']}", timeout=container[f"{kind}Probe"].get("timeoutSeconds", 1)
        )
    except httpx.TransportError:
        return False
    return 200 <= answer.status_code < 400


def wait_until_started(container: Document, process: subprocess.Popen[str]) -> int:
    """Probe as the kubelet does until the startup probe succeeds; how many probes that took."""
    asked = container["startupProbe"]
    for attempt in range(1, asked["failureThreshold"] + 1):
        if probe(container, "startup"):
            return attempt
        assert process.poll() is None, "the container ended"
        time.sleep(asked["periodSeconds"])
    raise AssertionError("the startup budget is spent")


def status_of(process: subprocess.Popen[str]) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def document(answer: httpx.Response) -> Document:
    return dict(json.loads(answer.text))
