"""Abusers who can write the folder of the bundle: what they leave there is made here from its description."""

from __future__ import annotations

import itertools
from pathlib import Path

from oodguard.load_tests.abusers import Over, Target, abuser

# The server looks at the folder every second, and waits until it is at rest.
PAUSE = 1.5


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


@abuser("puts manifests and graphs that cannot be read in the bundle's place", "--watch-interval", "0.5", calls=False)
def bad_bundles(target: Target, over: Over) -> None:
    """A manifest nested too deeply, one without end, one of other files, and a graph cut off."""
    manifest, graph = target.bundle / "manifest.json", target.bundle / "model.onnx"
    good, weights = manifest.read_bytes(), graph.read_bytes()
    bad = (b"[" * 50_000, b'{"name": "' + b"a" * 5_000_000, b"{}", good.replace(b'"threshold', b'"other', 1))
    try:
        for content in itertools.cycle(bad):
            _replace(manifest, content)
            if over.wait(PAUSE):
                return
            _replace(manifest, good)
            _replace(graph, weights[:1000])
            if over.wait(PAUSE):
                return
            _replace(graph, weights)
    finally:
        _replace(manifest, good)
        _replace(graph, weights)
