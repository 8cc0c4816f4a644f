"""Compare a standalone graph in every runtime at hand with the server's verdicts.

    pip install "path/to/clone[guard,openvino]" onnx playwright
    npm ci --ignore-scripts
    python compare.py bundles/photos photos/test other/packages

Prints one row of a Markdown table a runtime. A runtime that is not installed is named and left out; a verdict that
differs makes the exit code 1. `--canvas` counts what changes where the browser decodes and resizes the images itself.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np

import oodguard
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels

HERE = Path(__file__).resolve().parent
OUTPUTS = ["label", "probability", "is_ood", "ood_score", "percentile"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
# Software adapters, so that a machine without a GPU has WebGPU as well.
FLAGS = ["--disable-quic", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
BATCH = 16
# Another target acceptance than the bundle's, by the percentile.
MOVED = 0.8
# Runtimes are less than this apart, relative to the score or to 1, but where a curve is steep.
TOLERANCE = 1e-3


class Absent(Exception):
    """A runtime is not installed here."""


class Job:
    """A bundle, the images' pixels, and what the server says of them."""

    def __init__(self, bundle, paths):
        self.bundle, self.paths, self.manifest = bundle, paths, load_manifest(bundle)
        if self.manifest.standalone is None:
            sys.exit(f"error: {bundle} has no standalone graph; export it with --standalone")
        self.graph = bundle / self.manifest.standalone.graph
        self.pixels = np.stack([load_pixels(path.read_bytes(), self.manifest.preprocessing) for path in paths])
        with oodguard.load(bundle) as guard:
            self.expected, self.moved = (
                [result.prediction for result in guard.stream(paths, accept=accept)] for accept in (None, MOVED)
            )
        # An image that passes, but not at the smallest acceptance: it shows whether a runtime takes an `accept`.
        passing = [i for i, found in enumerate(self.expected) if not found.is_ood]
        most = max(passing, key=lambda i: self.expected[i].percentile)
        self.probe = self.pixels[most : most + 1]

    def batches(self):
        """The pixels, `BATCH` images at a time."""
        return (self.pixels[start : start + BATCH] for start in range(0, len(self.pixels), BATCH))

    def verdicts(self, run):
        """The verdicts of a function from a batch to `OUTPUTS`."""
        parts = [run(batch) for batch in self.batches()]
        columns = {name: np.concatenate([np.asarray(part[name]) for part in parts]).tolist() for name in OUTPUTS}
        rows = [dict(zip(OUTPUTS, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "label": self.manifest.classes[row["label"]]} for row in rows]


def onnxruntime_python(job):
    """ONNX Runtime in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job.graph, options)
    first = {"images": job.probe, "accept": np.float32([1e-6])}
    taken = "taken" if session.run(["is_ood"], first)[0][0] == 1 else "ignored"
    found = job.verdicts(lambda images: dict(zip(OUTPUTS, session.run(OUTPUTS, {"images": images}), strict=True)))
    yield "ONNX Runtime, Python", onnxruntime.__version__, taken, found


def openvino_python(job):
    """OpenVINO on the CPU, in full precision: bfloat16 would move the scores."""
    try:
        import openvino
    except ImportError:
        raise Absent("openvino") from None
    compiled = openvino.Core().compile_model(job.graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = "taken" if len(compiled.inputs) > 1 else "not an input"

    def run(images):
        return {port.get_any_name(): value for port, value in compiled({"images": images}).items()}

    yield "OpenVINO, CPU", version("openvino"), taken, job.verdicts(run)


def reference(job):
    """The reference evaluator of ONNX: NumPy, and slow."""
    try:
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise Absent("onnx") from None
    evaluator = ReferenceEvaluator(str(job.graph))
    first = {"images": job.probe, "accept": np.float32([1e-6])}
    taken = "taken" if evaluator.run(["is_ood"], first)[0][0] == 1 else "ignored"
    found = job.verdicts(lambda images: dict(zip(OUTPUTS, evaluator.run(OUTPUTS, {"images": images}), strict=True)))
    yield "ONNX reference evaluator", version("onnx"), taken, found


def node(job):
    """onnxruntime-node, by the program beside this one."""
    package = HERE / "node_modules/onnxruntime-node/package.json"
    if not shutil.which("node") or not package.is_file():
        raise Absent("node, onnxruntime-node (npm ci --ignore-scripts)")
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "pixels.rgb").write_bytes(job.pixels.tobytes())
        (one := Path(folder) / "probe.rgb").write_bytes(job.probe.tobytes())
        ran = subprocess.run(
            ["node", HERE / "judge.mjs", job.bundle.resolve(), file], stdout=subprocess.PIPE, text=True, check=True
        )
        probe = subprocess.run(
            ["node", "--input-type=module", "-e", PROBE, job.graph.resolve(), one, *map(str, job.pixels.shape[1:3])],
            cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        )  # fmt: skip
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    yield "ONNX Runtime, Node", json.loads(package.read_text())["version"], probe.stdout.strip(), found


PROBE = """
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
const [graph, file, height, width] = process.argv.slice(1);
const session = await ort.InferenceSession.create(graph, { logSeverityLevel: 3 });
const images = new ort.Tensor("uint8", readFileSync(file), [1, +height, +width, 3]);
const accept = new ort.Tensor("float32", [1e-6], [1]);
const asked = session.run({ images, accept });
console.log(await asked.then((found) => (found.is_ood.data[0] === 1 ? "taken" : "ignored"), () => "refused"));
"""

ASK = """async ([images, size]) => {
  const pixels = new Uint8Array(await (await fetch("pixels.rgb")).arrayBuffer());
  const found = [];
  for (let i = 0; i < images; i += 16) found.push(...await guard.judgePixels(
    pixels.subarray(i * size, (i + 16) * size)));
  return found;
}"""
CANVAS = """async (images) => {
  const found = [];
  for (let i = 0; i < images; i++) found.push(await guard.judgeImage(await (await fetch(`image/${i}`)).blob()));
  return found;
}"""
REFUSES = """async (pixels) => guard.feed(Uint8Array.from(pixels), 1e-6).then(
  (flagged) => (flagged ? "taken" : "ignored"), () => "refused")"""


class Files(http.server.SimpleHTTPRequestHandler):
    """This folder, the bundle under `bundle/`, the pixels and the images."""

    def __init__(self, *arguments, job, **options):
        self.job = job
        super().__init__(*arguments, directory=str(HERE), **options)

    def do_GET(self):
        """One file."""
        path = self.path.split("?")[0].lstrip("/")
        if path == "pixels.rgb":
            return self.give(self.job.pixels.tobytes())
        if path.startswith("image/"):
            return self.give(self.job.paths[int(path.removeprefix("image/"))].read_bytes())
        if path.startswith("bundle/"):
            return self.give((self.job.bundle / Path(path).name).read_bytes())
        return super().do_GET()

    def give(self, data):
        """Answer with bytes."""
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Silence."""


def chromium(job, canvas=False):
    """onnxruntime-web in the page beside this program, on WebAssembly and on WebGPU."""
    package = HERE / "node_modules/onnxruntime-web/package.json"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise Absent("playwright") from None
    if found is None or not package.is_file():
        raise Absent("Chromium, onnxruntime-web (npm ci --ignore-scripts)")
    number = json.loads(package.read_text())["version"]
    # Chromium's sandbox refuses to run as root.
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, job=job))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=flags)
            for device in ("wasm", "webgpu"):
                page = browser.new_page()
                page.set_default_timeout(600_000)
                page.goto(f"http://127.0.0.1:{server.server_port}/index.html?device={device}")
                page.wait_for_function("document.getElementById('state').textContent !== 'Loading…'")
                state = page.locator("#state").text_content()
                if "cannot" in state:
                    print(f"onnxruntime-web on {device}: {state}", file=sys.stderr)
                    continue
                name = f"ONNX Runtime, web, {device} in Chromium {browser.version.split('.')[0]}"
                try:
                    verdicts = page.evaluate(ASK, [len(job.pixels), job.pixels[0].size])
                    yield name, number, page.evaluate(REFUSES, job.probe.ravel().tolist()), verdicts
                    if canvas and device == "wasm":
                        yield f"{name}, through the canvas", number, "", page.evaluate(CANVAS, len(job.paths))
                except Error as error:
                    print(f"{name}: {error.message.splitlines()[0]}", file=sys.stderr)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


def row(job, name, number, taken, found):
    """One row of the table, and whether every verdict is the server's."""
    pairs = list(zip(job.expected, found, strict=True))
    labels = sum(a.label == b["label"] for a, b in pairs)
    flags = sum(a.is_ood == bool(b["is_ood"]) for a, b in pairs)
    moved = sum(a.is_ood == (b["percentile"] >= 100 * MOVED - 0.001) for a, b in zip(job.moved, found, strict=True))
    worst = max(abs(a.ood_score - b["ood_score"]) / max(1.0, abs(a.ood_score)) for a, b in pairs)
    n = len(found)
    text = f"| {name} | {number} | {labels} of {n} | {flags} of {n} | {moved} of {n} | {worst:.1e} | {taken} |"
    return text, labels == flags == moved == n and worst < TOLERANCE


def main():
    """Print the table; return 1 where a verdict differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="default: all")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    parser.add_argument("--canvas", action="store_true", help="in the browser, decode and resize there, too")
    given = parser.parse_args()
    paths = [p for folder in given.folders for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    job = Job(given.bundle, paths[:: given.every])
    print(f"| runtime | version | labels | flags | flags at {MOVED} | largest difference | `accept` fed |")
    print("|---|---|---|---|---|---|---|")
    good = True
    for name in given.runtime or RUNTIMES:
        options = {"canvas": given.canvas} if name == "web" else {}
        try:
            for found in RUNTIMES[name](job, **options):
                text, same = row(job, *found)
                print(text, flush=True)
                good &= same or "canvas" in found[0]
        except Absent as missing:
            print(f"{name}: not installed here: {missing}", file=sys.stderr)
    return int(not good)


RUNTIMES = {
    "onnxruntime": onnxruntime_python,
    "openvino": openvino_python,
    "reference": reference,
    "node": node,
    "web": chromium,
}


if __name__ == "__main__":
    sys.exit(main())
