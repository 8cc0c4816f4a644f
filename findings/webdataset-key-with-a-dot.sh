#!/usr/bin/env bash
# TarWriter takes keys with a dot, and the reader cuts them at the dot: two samples come back as one.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 webdataset==1.0.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import webdataset

print("webdataset", md.version("webdataset"))
for keys in (("scan.1", "scan.2"), ("scan-1", "scan-2")):
    with webdataset.TarWriter("shard.tar") as writer:
        for label, key in enumerate(keys):
            writer.write({"__key__": key, "txt": f"image {label}", "cls": label})
    samples = [{name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")} for sample in webdataset.WebDataset("shard.tar", shardshuffle=False)]
    print(f"written 2 samples {keys}, read {len(samples)}: {samples}")
    if "." in keys[0]:
        assert samples == [{"__key__": "scan", "1.cls": b"0", "1.txt": b"image 0", "2.cls": b"1", "2.txt": b"image 1"}]
    else:
        assert samples == [{"__key__": key, "cls": b"%d" % label, "txt": b"image %d" % label} for label, key in enumerate(keys)]
PY
