"""Just enough of a Kubernetes API server for helm and kubectl: discovery, and objects stored as they are given.

Nothing is scheduled, defaulted or validated; what is tested against it is what the real binaries send and read.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

PROTOBUF = b"k8s\0"
VERBS = ["create", "delete", "get", "list", "patch", "update"]
KINDS = {
    "v1": {"ConfigMap": "configmaps", "Pod": "pods", "Secret": "secrets", "Service": "services",
           "ServiceAccount": "serviceaccounts", "Namespace": "namespaces"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"},
}  # fmt: skip


class Cluster:
    """A running stand-in. `kubeconfig` is for helm and kubectl; `objects` is what is stored, by path."""

    def __init__(self, folder: Path, version: str = "v1.37.1") -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = version
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(*cluster.get(self.path))

            def do_POST(self) -> None:
                self._answer(*cluster.put(self.path, self._body(), new=True))

            def do_PUT(self) -> None:
                self._answer(*cluster.put(self.path, self._body()))

            def do_PATCH(self) -> None:
                self._answer(*cluster.patch(self.path, self._body()))

            def do_DELETE(self) -> None:
                self._body()
                self._answer(*cluster.delete(self.path))

            def _body(self) -> dict[str, Any]:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if text.startswith(PROTOBUF):
                    return _secret_of(text.removeprefix(PROTOBUF))
                # Server-side apply sends YAML; JSON is YAML too.
                return yaml.safe_load(text) or {}

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
        self._thread.start()
        address = f"http://127.0.0.1:{self._server.server_port}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "stand-in", "cluster": {"server": address}}],
                    "users": [{"name": "anyone", "user": {}}],
                    "contexts": [{"name": "it", "context": {"cluster": "stand-in", "user": "anyone"}}],
                    "current-context": "it",
                }
            )
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """A stored object."""
        for stored in self.objects.values():
            if stored["kind"] == kind and stored["metadata"]["name"] == name:
                return stored
        return None

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        where, query = urlsplit(path).path.rstrip("/"), parse_qs(urlsplit(path).query)
        if where == "/version":
            major, minor, _ = self.version.removeprefix("v").split(".")
            return 200, {"major": major, "minor": minor, "gitVersion": self.version}
        if where == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if where == "/apis":
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(v) for v in KINDS if "/" in v]}
        version = where.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                         "resources": [_resource(kind, plural) for kind, plural in KINDS[version].items()]}  # fmt: skip
        if where in self.objects:
            return 200, self.objects[where]
        parts = where.rsplit("/", 1)
        if any(parts[-1] in plurals.values() for plurals in KINDS.values()):
            items = [stored for at, stored in self.objects.items() if at.rsplit("/", 1)[0] == where]
            for selector in query.get("labelSelector", []):
                for term in selector.split(","):
                    label, _, value = term.partition("=")
                    items = [i for i in items if i["metadata"].get("labels", {}).get(label) == value]
            kind = next(kind for kinds in KINDS.values() for kind, plural in kinds.items() if plural == parts[-1])
            version = next(v for v, kinds in KINDS.items() if parts[-1] in kinds.values())
            return 200, {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}
        return _status(404, "NotFound", f"{where} not found")

    def put(self, path: str, given: dict[str, Any], *, new: bool = False) -> tuple[int, dict[str, Any]]:
        where = urlsplit(path).path
        if new:
            where = f"{where}/{given['metadata']['name']}"
            if where in self.objects:
                return _status(409, "AlreadyExists", f"{where} already exists")
        given["metadata"].setdefault("uid", str(uuid.uuid4()))
        given["metadata"]["resourceVersion"] = str(len(self.objects) + 1)
        self.objects[where] = given
        return 201 if new else 200, given

    def patch(self, path: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        where = urlsplit(path).path
        stored = self.objects.get(where, {})
        return self.put(path, _merged(stored, given) if "kind" not in given else given)

    def delete(self, path: str) -> tuple[int, dict[str, Any]]:
        where = urlsplit(path).path
        if self.objects.pop(where, None) is None:
            return _status(404, "NotFound", f"{where} not found")
        return _status(200, "", "")


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """The length-delimited fields of a protobuf message."""
    found: dict[int, list[bytes]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        size = number()
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(message[at : at + size])
            at += size
    return found


def _secret_of(envelope: bytes) -> dict[str, Any]:
    """Helm stores its releases as Secrets in protobuf; the field numbers are those of the Kubernetes API."""

    def pairs(entries: list[bytes]) -> dict[str, bytes]:
        return {f[1][0].decode(): f.get(2, [b""])[0] for f in map(_fields, entries)}

    unknown = _fields(envelope)
    kind = _fields(unknown[1][0])[2][0].decode()
    if kind == "DeleteOptions":
        return {}
    assert kind == "Secret", kind
    secret = _fields(unknown[2][0])
    meta = _fields(secret[1][0])
    labels = {name: value.decode() for name, value in pairs(meta.get(11, [])).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": meta[1][0].decode(), "labels": labels},
        "type": secret[3][0].decode(),
        "data": {name: base64.b64encode(value).decode() for name, value in pairs(secret.get(2, [])).items()},
    }


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged


def _group(version: str) -> dict[str, Any]:
    group, _, short = version.partition("/")
    entry = {"groupVersion": version, "version": short}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resource(kind: str, plural: str) -> dict[str, Any]:
    return {
        "name": plural,
        "singularName": kind.lower(),
        "namespaced": kind != "Namespace",
        "kind": kind,
        "verbs": VERBS,
    }


def _status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    status = "Success" if code < 400 else "Failure"
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": status,
        "reason": reason,
        "message": message,
        "code": code,
    }
