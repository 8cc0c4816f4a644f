"""The run folder: `run.json`, `division.json`, `bank.json`, `calibration.safetensors`, weights. Nothing is pickled."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from oodguard.core.answering import LabelledPhotos
from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.classifier import CLASSIFIER_FILE
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.errors import EnvironmentProblem, FormatError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.lineage import VersionRef
from oodguard.core.scores import ScoreName
from oodguard.training.backbone.network import pixel_network
from oodguard.training.backbone.sources import rebuild_backbone
from oodguard.training.heads.guard import GuardHeads
from oodguard.training.record import (
    CALIBRATION_FILE,
    DIVISION_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    DivisionRecord,
    RunRecord,
    load_record,
    parse_record,
)

PACKAGES = ("torch", "timm", "numpy", "scipy", "pillow", "onnx", "onnxruntime", "scikit-learn", "safetensors")


@dataclass(frozen=True)
class Run:
    """A trained guard in memory: its record and its network.

    division: which photo trained, calibrated or tested it. calibration: the scores `{name: [n]}` of the calibration
    photos. labelled: what was said of photos with labels, those out of fold first and then the calibration photos; of
    at most 8,192 of the former. bank: which training photo each row of the bank is. folder:
    where it was read from.
    """

    record: RunRecord
    trunk: nn.Module
    tail: nn.Module
    heads: GuardHeads
    division: DivisionRecord
    calibration: dict[ScoreName, Scores]
    labelled: LabelledPhotos
    bank: Bank
    folder: Path

    @property
    def apart(self) -> LabelledPhotos:
        """The photos out of fold; none of a cross-fitted run."""
        return self.labelled.first(len(self.labelled) - len(next(iter(self.calibration.values()))))

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the heads know: all, but for a wrapped classifier of which photos cover a part."""
        covered = self.heads.shapes.covered
        return tuple(self.record.classes[number] for number in covered) if covered else self.record.classes

    @torch.no_grad()
    def predict(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Probabilities `[B, C]` and scores `[B, S]` of uint8 images `[B, H, W, 3]`, by plain PyTorch."""
        rows = self.rows(images)
        logits, scores = self.heads(rows)
        return self.heads.probabilities(rows, logits).numpy(), scores.numpy()

    @torch.no_grad()
    def distances(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """How far the nearest photos of the bank are from uint8 images `[B, H, W, 3]`, `[B, K]`, by plain PyTorch."""
        return self.distances_of(self.rows(images))

    @torch.no_grad()
    def distances_of(self, rows: torch.Tensor) -> npt.NDArray[np.float32]:
        """The same of the rows that the tail gave."""
        density = self.heads.density
        q, residual = density.coordinates(self.heads.rows.feature(rows))
        return density.nearest(q, residual, density.distances(q, residual)[0])[1].numpy()

    @torch.no_grad()
    def rows(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """What the tail gives for uint8 images `[B, H, W, 3]`, as the heads take it."""
        trunk = pixel_network(self.trunk, self.record.preprocessing).eval()
        found: torch.Tensor = self.tail(trunk(torch.from_numpy(images))).flatten(1)
        return found


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_weights(folder: Path, *, trunk: nn.Module, tail: nn.Module, heads: GuardHeads) -> None:
    """Write all three parts as one safetensors file."""
    state = {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()
        for part, module in (("trunk", trunk), ("tail", tail), ("heads", heads))
        for name, value in module.state_dict().items()
    }
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)


def write_division(folder: Path, division: DivisionRecord) -> None:
    """Write which photo belongs to which part."""
    (folder / DIVISION_FILE).write_text(division.model_dump_json(), encoding="utf-8")


def write_bank(folder: Path, bank: Bank) -> None:
    """Write which training photo each row of the bank is."""
    (folder / BANK_FILE).write_text(bank.model_dump_json(), encoding="utf-8")


def write_calibration(folder: Path, scores: Mapping[ScoreName, Scores], labelled: LabelledPhotos) -> None:
    """Write the calibration images' scores, `[n, S]` in graph order, and what was said of photos with labels."""
    arrays = {
        "scores": np.stack(list(scores.values()), axis=1),
        "surprise": labelled.surprise,
        "probabilities": labelled.probabilities.astype(np.float32),
        "targets": labelled.targets,
        "groups": labelled.groups,
    }
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(whole, folder / CALIBRATION_FILE)


def _read_calibration(folder: Path, record: RunRecord) -> tuple[dict[ScoreName, Scores], LabelledPhotos]:
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise FormatError(f"{folder} is incomplete: it has no {CALIBRATION_FILE}")
    try:
        arrays = safetensors.numpy.load_file(path)
        table = arrays.pop("scores")
        labelled = LabelledPhotos(**arrays)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({error})") from None
    names = record.calibration.names
    if labelled.probabilities.shape != (len(labelled), len(record.classes)) or not (
        len(labelled.surprise) == len(labelled.groups) == len(labelled) >= len(table)
    ):
        raise FormatError(f"{path} does not hold the photos that {RECORD_FILE} describes")
    if table.ndim != 2 or table.shape[1] != len(names):
        raise FormatError(f"{path} does not hold the {len(names)} scores that {RECORD_FILE} lists")
    scores = record.calibration.columns(table)
    if any(QuantileCurve.fit(scores[name]) != curve for name, curve in record.calibration.curves.items()):
        raise FormatError(f"{path} does not hold the scores that set the thresholds in {RECORD_FILE}")
    return scores, labelled


def _read_division(folder: Path) -> DivisionRecord:
    path = folder / DIVISION_FILE
    if not path.is_file():
        raise FormatError(f"{folder} is incomplete: it has no {DIVISION_FILE}")
    return parse_record(DivisionRecord, path.read_bytes(), path)


def _read_bank(folder: Path, record: RunRecord) -> Bank:
    bank = Bank.read(folder / BANK_FILE)
    if len(bank) != record.heads.bank or max(bank.class_indices) >= len(record.classes):
        raise FormatError(f"{folder / BANK_FILE} is not of the bank and the classes that {RECORD_FILE} describes")
    return bank


@dataclass(frozen=True)
class Lineage:
    """The name and version of a run to be written, and the run that it follows."""

    name: str
    version: int
    parent: VersionRef | None


def lineage(out: Path, parent: Path | None) -> Lineage:
    """What a run at `out` is called: the next version of `parent`, or of the run that it takes the place of.

    Raises `FormatError` where `parent` is not a run. What cannot be read at `out` is not followed.
    """
    followed = out if parent is None else parent
    try:
        record = load_record(followed)
    except FormatError:
        if parent is not None:
            raise
        return Lineage(name=out.resolve().name, version=1, parent=None)
    name = record.name or followed.resolve().name
    return Lineage(name=name, version=record.version + 1, parent=reference(record, followed))


def reference(record: RunRecord, folder: Path) -> VersionRef:
    """How a bundle or a later run names a run."""
    return VersionRef(
        name=record.name or folder.resolve().name,
        version=str(record.version),
        created=record.created,
        sha256=file_sha256(folder / RECORD_FILE),
    )


def require_free(out: Path, *, overwrite: bool) -> None:
    """Raise `InputError` when `out` holds a run that may not be replaced, or something that is not a run."""
    if not out.exists():
        return
    if (out / RECORD_FILE).is_file():
        if not overwrite:
            raise InputError(f"{out} is a finished run; choose another --out, or add --overwrite to replace it")
    elif out.is_file() or any(out.iterdir()):
        raise InputError(f"{out} exists and is not a run folder; choose another --out")


def begin(out: Path, *, overwrite: bool) -> Path:
    """A scratch folder beside `out`; `finish` renames it, so nothing half-written ever looks finished.

    Raises `InputError` as `require_free` does, `EnvironmentProblem` when it cannot be written.
    """
    require_free(out, overwrite=overwrite)
    scratch = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    except OSError as error:
        raise EnvironmentProblem(f"{scratch} cannot be written ({error.strerror})") from None
    return scratch


def finish(scratch: Path, out: Path) -> None:
    """Put a finished folder in its place, replacing an older one."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    scratch.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that `load_run` reads beside the record and the weights."""
    names = (DIVISION_FILE, BANK_FILE, CALIBRATION_FILE, CLASSIFIER_FILE)
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    """Raise `FormatError` unless every file is there with its hash."""
    for name, sha256 in files.items():
        path = folder / name
        try:
            if not path.is_file():
                raise FormatError(f"{folder} is incomplete: it has no {name}")
            same = file_sha256(path) == sha256
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror or error})") from None
        if not same:
            raise FormatError(f"{path} was damaged or changed after training: its SHA-256 does not match")


def load_run(folder: Path) -> Run:
    """Rebuild a trained guard from its folder. Raises `FormatError` in one sentence when something does not fit."""
    record = load_record(folder)
    path = folder / WEIGHTS_FILE
    _verify(folder, {WEIGHTS_FILE: record.weights_sha256, **record.files})
    try:
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise FormatError(f"{path} is damaged ({error})") from None
    trunk, tail = rebuild_backbone(record.backbone, record.preprocessing, folder)
    heads = GuardHeads(record.heads)
    try:
        for part, module in (("trunk", trunk), ("tail", tail), ("heads", heads)):
            prefix = f"{part}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise FormatError(f"{path} does not fit its record ({str(error).splitlines()[0]})") from None
    calibration, labelled = _read_calibration(folder, record)
    return Run(
        record=record,
        trunk=trunk.eval(),
        tail=tail.eval(),
        heads=heads.eval(),
        division=_read_division(folder),
        calibration=calibration,
        labelled=labelled,
        bank=_read_bank(folder, record),
        folder=folder,
    )
