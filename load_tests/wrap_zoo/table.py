"""Wrap, evaluate and export every network, and print the table of docs/WRAP.md: `python load_tests/wrap_zoo/table.py`.

Steps that are done already are not done again: delete a folder of `guards/` to measure its network anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.core.manifest import INPUT_NAME
from oodguard.core.preprocessing import load_pixels
from oodguard.evaluation.evaluation import Evaluation, read_evaluation
from oodguard.load_tests.harness import console
from oodguard.load_tests.wrap_zoo.networks import NETWORKS, Network, Rows
from oodguard.training.run import load_run
from oodguard.wrapping.find import find_parts
from oodguard.wrapping.prepare import prepare

FUSED = "fused"
OWN_SCORES = ("classifier_energy", "classifier_entropy", "classifier_one_minus_msp")
# The probabilities of so many test photos are compared bit for bit.
COMPARED = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row; empty where only the mechanics are judged."""

    name: str
    made_by: str
    detected: str
    said: str = "nothing"
    before: str = ""
    after: str = ""
    bits: str = ""
    acceptance: str = ""
    packages: str = ""
    clothing: str = ""
    near: str = ""
    cost: str = ""


@dataclass(frozen=True)
class Places:
    """Where networks, photos and OOD sets lie."""

    out: Path
    data: Path

    def photos(self, network: Network) -> Path:
        """What a network was trained on, in train/, val/ and test/."""
        if isinstance(network.photos, int):
            return self.out / f"produce-{network.photos}"
        return self.out / "lines" if network.photos == "lines" else self.data / "produce"

    def ood(self, network: Network) -> list[str]:
        """`--ood` of `oodguard evaluate`."""
        sets = {name: self.data / name / "test" for name in ("packages", "clothing")}
        if isinstance(network.photos, int):
            sets["left_out"] = self.out / f"left-out-{network.photos}"
        return [part for name, folder in sets.items() for part in ("--ood", f"{name}={folder}")]


class Original:
    """The author's own file under plain ONNX Runtime; of a checkpoint, timm's model under PyTorch."""

    def __init__(self, network: Network, file: Path) -> None:
        assert network.pixels is not None
        self.pixels = network.pixels
        self.is_file = file.suffix == ".onnx"
        self.fixed: int | None = None
        if not self.is_file:
            self._of_checkpoint(network, file)
            return
        parts = find_parts(file)
        model = onnx.load(file)
        self.fixed, output = parts.fixed_batch, parts.output
        if parts.activation == "none":
            # What a caller of logits does next, by the same runtime.
            model.graph.node.append(helper.make_node("Softmax", [output], ["of_logits"], axis=-1))
            model.graph.output.append(helper.make_tensor_value_info("of_logits", onnx.TensorProto.FLOAT, None))
            output = "of_logits"
        self.session = _session(model.SerializeToString())
        self.input, self.output = parts.input, output

    def _of_checkpoint(self, network: Network, file: Path) -> None:
        import torch

        from oodguard.training.backbone.timm_loader import timm

        state = torch.load(file, map_location="cpu", weights_only=True)
        name = network.said[network.said.index("--backbone") + 1]
        self.model = timm.create_model(name, num_classes=len(state["classes"])).eval()
        self.model.load_state_dict(state["state_dict"])

    def __call__(self, rows: Rows) -> Rows:
        """Probabilities `[N, C]` of `[N, ...]` pixels as they enter it, in one batch where it takes any."""
        if not self.is_file:
            import torch

            with torch.inference_mode():
                found: Rows = self.model(torch.from_numpy(rows)).softmax(-1).numpy()
                return found
        size = self.fixed or len(rows)
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return np.concatenate([self.session.run([self.output], {self.input: part})[0] for part in parts])

    def accuracy(self, photos: Path, classes: Sequence[str]) -> float:
        """On the test photos, from the author's own preprocessing."""
        files = [(path, classes.index(path.parent.name)) for path in sorted((photos / "test").rglob("*.*"))]
        hits = 0
        for i in range(0, len(files), 8):
            part = files[i : i + 8]
            answers = self(np.stack([self.pixels(path) for path, _ in part])).argmax(1)
            hits += int((answers == [label for _, label in part]).sum())
        return hits / len(files)


def _session(graph: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def oodguard(*command: object, log: Path) -> str:
    """Run a command of oodguard and return what it printed. Raises `EnvironmentProblem`."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    ran = subprocess.run(
        [sys.executable, "-m", "oodguard.cli", *map(str, command)], capture_output=True, text=True, env=quiet
    )
    log.write_text(ran.stdout + ran.stderr, encoding="utf-8")
    if ran.returncode:
        last = [line for line in (ran.stdout + ran.stderr).splitlines() if "error" in line] or ["no error line"]
        raise EnvironmentProblem(f"oodguard {command[0]}: {last[-1]}")
    return log.read_text(encoding="utf-8")


def mechanics(network: Network, file: Path) -> Row:
    """What is found in a file of random weights, and that a copy that takes any batch gives its bits."""
    parts = find_parts(file)
    prepared = prepare(file, parts)
    return Row(
        name=network.name, made_by=network.made_by, detected=_detected(parts.lines(), prepared.batch),
        bits="yes (images of noise)",
    )  # fmt: skip


def _detected(lines: Sequence[str], batch: str) -> str:
    kind = re.sub(r"^input\s+", "", lines[0]).split(",")[0]
    feature = re.sub(r"^feature\s+", "", lines[1])
    return f"`{kind}`; batch {batch}; feature `{feature}`"


def guarded(network: Network, places: Places, threads: int) -> Row:
    """The whole way of one network, from its file to the costs of its bundle."""
    file, photos = places.out / network.file, places.photos(network)
    home = places.out / "guards" / network.name
    home.mkdir(parents=True, exist_ok=True)
    run, bundle = home / "run", home / "bundle"
    said = [part.format(here=file.parent) for part in network.said]
    cache = ("--cache", places.out / "cache", "--threads", threads)
    if not (run / "run.json").is_file():
        oodguard("wrap", file, "--data", photos, "--out", run, *cache, *said, log=home / "wrap.log")
    if not (run / "evaluation.json").is_file():
        oodguard("evaluate", run, *places.ood(network), log=home / "evaluate.log")
    if not (bundle / "manifest.json").is_file():
        oodguard("export", run, "--out", bundle, log=home / "export.log")
    cost = home / "cost.log"
    if not cost.is_file():
        timed = subprocess.run(
            [sys.executable, "-m", "oodguard.export.benchmark", run], capture_output=True, text=True, check=True
        )
        cost.write_text(timed.stdout, encoding="utf-8")
    found, record = read_evaluation(run), load_run(run).record
    assert record.classifier is not None
    original = Original(network, file)
    lines = [line for line in (home / "wrap.log").read_text().splitlines() if line.startswith(("input", "feature"))]
    return Row(
        name=network.name, made_by=network.made_by, detected=_detected(lines, record.classifier.batch),
        said=" ".join(network.said).replace("{here}/", "") or "nothing",
        before=f"{original.accuracy(photos, record.classes):.1%}", after=f"{found.accuracy.share:.1%}",
        bits=bits(original, bundle, photos), acceptance=f"{found.acceptance[FUSED].share:.1%}",
        packages=_far(found, "packages"), clothing=_far(found, "clothing"), near=_near(found),
        cost=" / ".join(re.findall(r"(\d\.\d{3})\s*│?\s*$", cost.read_text(), re.MULTILINE)),
    )  # fmt: skip


def bits(original: Original, bundle: Path, photos: Path) -> str:
    """Whether fused probabilities are the original's, on test photos at batch 1 and 8; else the largest difference."""
    from oodguard.core.manifest import load_manifest

    preprocessing = load_manifest(bundle).preprocessing
    files = sorted((photos / "test").rglob("*.*"))
    files = files[:: max(len(files) // COMPARED, 1)][:COMPARED]
    pixels = np.stack([load_pixels(path.read_bytes(), preprocessing) for path in files])
    own = original.pixels
    mean, std = (np.asarray(values, np.float32) for values in own.normal)
    entered = (pixels[..., :: -1 if own.bgr else 1].astype(np.float32) / np.float32(own.scale) - mean) / std
    entered = np.ascontiguousarray(entered if own.nhwc else entered.transpose(0, 3, 1, 2))
    fused, worst = _session(str(bundle / "model.onnx")), 0.0
    equal = True
    for size in (1, 8):
        for i in range(0, len(files), size):
            ours = fused.run(["probabilities"], {INPUT_NAME: pixels[i : i + size]})[0]
            theirs = original(entered[i : i + size])
            equal = equal and ours.tobytes() == theirs.tobytes()
            worst = max(worst, float(np.abs(ours - theirs).max()))
    if equal:
        return "yes"
    return f"{worst:.0e} from PyTorch" if not original.is_file else f"no, {worst:.0e}"


def _far(found: Evaluation, name: str) -> str:
    return f"{found.ood[name].scores[FUSED].ood_accepted_at_95_id:.1%}"


def _near(found: Evaluation) -> str:
    if "left_out" not in found.ood:
        return ""
    scores = found.ood["left_out"].scores
    own = {name: scores[name].auroc for name in OWN_SCORES if name in scores}
    best = max(own, key=lambda name: own[name])
    return f"{scores[FUSED].auroc:.1%} ({best} {own[best]:.1%})"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as two tables: of guards, and of mechanics alone."""
    whole = [row for row in rows if row.before]
    first = [
        "| network | made by | detected | said by hand | accuracy before / after | bits equal | accepted at 95 | "
        "packages FPR95 | clothing FPR95 | left-out classes AUROC (best own score) | cost at 1 / 8 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.name} | {r.made_by} | {r.detected} | `{r.said}` | {r.before} / {r.after} | {r.bits} | "
            f"{r.acceptance} | {r.packages} | {r.clothing} | {r.near} | {r.cost} |"
            for r in whole
        ),
    ]
    second = ["| network | made by | detected | bits equal |", "|---|---|---|---|"]
    second += [f"| {r.name} | {r.made_by} | {r.detected} | {r.bits} |" for r in rows if not r.before]
    return "\n".join([*first, "", *second])


def main() -> int:
    """Print the tables; the exit code is 1 when a network is missing or could not be guarded."""
    say = argparse.ArgumentParser(description=__doc__)
    say.add_argument("--data", type=Path, required=True, help="the folder of produce/, packages/ and clothing/")
    say.add_argument("--out", type=Path, default=Path("/tmp/zoo"), help="where make.py put the networks")
    say.add_argument("--only", nargs="*", help="names of networks")
    say.add_argument("--threads", type=int, default=1)
    args = say.parse_args()
    places, rows, failed = Places(args.out, args.data), [], 0
    (args.out / "rows").mkdir(exist_ok=True)
    for network in NETWORKS:
        if args.only and network.name not in args.only:
            continue
        kept = args.out / "rows" / f"{network.name}.json"
        try:
            if not (args.out / network.file).is_file():
                raise EnvironmentProblem(f"{args.out / network.file} is missing: run make.py")
            if kept.is_file():
                rows.append(Row(**json.loads(kept.read_text(encoding="utf-8"))))
                continue
            made = network.photos == "none"
            rows.append(mechanics(network, args.out / network.file) if made else guarded(network, places, args.threads))
            kept.write_text(json.dumps(asdict(rows[-1])), encoding="utf-8")
            console.print(f"{network.name}: done", style="dim")
        except (OodguardError, subprocess.CalledProcessError) as error:
            failed = 1
            console.print(f"{network.name}: {error}")
    print(markdown(rows))
    return failed


if __name__ == "__main__":
    sys.exit(main())
