"""A guard around a classifier in a file of any kind, or around a PyTorch module: all become ONNX first."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from oodguard.core.errors import InputError, QualityError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.timm_source import preprocessing_of
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RunRecord
from oodguard.wrapping.checkpoint import load_classifier, module_to_onnx
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.stated import PreprocessingOptions, stated
from oodguard.wrapping.wrap import OnnxFile, wrap_file

# How far the logits of an exported module may be from its own, relative to the largest or to 1.
EXPORTED = 1e-3
CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")


def wrap_path(
    path: Path,
    options: WrapOptions,
    out: Path,
    *,
    said: PreprocessingOptions | None = None,
    report: Reporter | None = None,
) -> RunRecord:
    """Put a guard around the classifier in a file: ONNX, or with `options.backbone` a timm model's checkpoint.

    said: what is known of its preprocessing. Raises as `wrap_file` does.
    """
    said = said or PreprocessingOptions()
    if options.backbone is None:
        if path.suffix.lower() in CHECKPOINTS:
            raise InputError(
                f"{path} is a checkpoint; say which timm model it is of with --backbone, or export it to ONNX"
            )
        return wrap_file(OnnxFile(path, path.name, said), options, out, report=report)
    model, lines = load_classifier(path, options.backbone)
    for line in lines:
        (report or Silent()).note(line)
    own = preprocessing_of(model)
    return _wrap_exported(
        model, path.name, own.size, _completed(said, own), options, out, made_from=path, report=report
    )


def wrap_module(
    module: nn.Module,
    photos: Path,
    out: Path,
    *,
    feature: str | None = None,
    preprocessing: Preprocessing | Path | None = None,
    size: int | tuple[int, int] = 224,
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    report: Reporter | None = None,
) -> RunRecord:
    """Put a guard around a PyTorch classifier that takes float32 `[B, 3, H, W]` and returns logits `[B, C]`.

    ```python
    record = oodguard.wrap(model, Path("photos"), Path("runs/mine"), feature="avgpool", preprocessing=preprocessing)
    ```

    photos: as `--data` of the command. feature: the submodule whose output is the feature; None: found. preprocessing:
    None: found by trial on the photos. size: of the input, its side or (height, width), where no preprocessing says it.
    classes: names in the model's order. options: other fields of `WrapOptions`. The module is copied, not changed.
    Raises as `wrap_file` does.
    """
    said = PreprocessingOptions()
    if isinstance(preprocessing, Preprocessing):
        size, said = preprocessing.size, _completed(said, preprocessing)
    elif preprocessing is not None:
        said = PreprocessingOptions(preprocessing=preprocessing)
        fields = stated(said, metadata={}).fields
        if "crop" in fields:
            size = (fields["crop"], fields.get("width") or fields["crop"])
    made = WrapOptions(data=photos, **(options or {}))
    name = type(module).__name__
    sides = (size, size) if isinstance(size, int) else size
    return _wrap_exported(
        copy.deepcopy(module).cpu(), name, sides, said, made, out, feature=feature, classes=classes, report=report
    )


def _completed(said: PreprocessingOptions, own: Preprocessing) -> PreprocessingOptions:
    """What somebody says, and for the rest the model's own preprocessing."""
    if said.preprocessing is not None:
        return said
    fields = {name: value for name, value in own.model_dump().items() if name in PreprocessingOptions.model_fields}
    return PreprocessingOptions(**{**fields, **said.fields})


def _wrap_exported(
    module: nn.Module,
    name: str,
    size: tuple[int, int],
    said: PreprocessingOptions,
    options: WrapOptions,
    out: Path,
    *,
    feature: str | None = None,
    classes: Sequence[str] | None = None,
    made_from: Path | None = None,
    report: Reporter | None = None,
) -> RunRecord:
    """Export a module to ONNX, and put a guard around that."""
    (report or Silent()).note(f"exporting {name} to ONNX for images of {size[0]} x {size[1]}")
    graph = module_to_onnx(module, height=size[0], width=size[1], feature=feature)
    _require_same(module, graph, name, size)
    with tempfile.TemporaryDirectory(prefix="oodguard-") as folder:
        path = Path(folder) / "classifier.onnx"
        path.write_bytes(graph)
        named: dict[str, Any] = {}
        if feature is not None:
            named = {"feature": "feature", "logits": "logits"}
        if classes is not None:
            listed = Path(folder) / "classes.json"
            listed.write_text(json.dumps(list(classes)), encoding="utf-8")
            named["classes"] = listed
        return wrap_file(OnnxFile(path, name, said, made_from), options.model_copy(update=named), out, report=report)


def _require_same(module: nn.Module, graph: bytes, name: str, size: tuple[int, int]) -> None:
    """Raise `QualityError` unless what was exported answers as the module does."""
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, *size), dtype=np.float32))
    with torch.no_grad():
        expected = module(images)
    expected = getattr(expected, "logits", expected).numpy()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    found = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(
        ["logits"], {"input": images.numpy()}
    )[0]
    error = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not error <= EXPORTED:
        raise QualityError(
            f"{name} answers otherwise once PyTorch has exported it (logits differ by {error:.1e}, allowed "
            f"{EXPORTED:g}); export it yourself and wrap the ONNX file"
        )
