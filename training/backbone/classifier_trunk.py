"""A wrapped classifier as a trunk: ONNX Runtime runs it, from pixels to rows of feature, logits and probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor, nn

from oodguard.core.allowance import cores
from oodguard.core.classifier import CLASSIFIER_FILE, FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import FormatError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.network import Backbone
from oodguard.training.heads.rows import Rows

KIND = "onnx"


class ClassifierTrunk(nn.Module):
    """uint8 images `[B, H, W, 3]` to rows `[B, D + 2 C]`, as `Rows` reads them. Nothing in it can be trained."""

    takes_pixels = True

    def __init__(self, network: Path, *, threads: int = 0) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or cores()
        try:
            self._session = ort.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises types of its own
            reason = str(error).splitlines()[0]
            raise FormatError(f"{network} cannot be run ({reason})") from None

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As `forward`, on arrays."""
        names = [FEATURE_NAME, LOGITS_NAME, PROBABILITIES_NAME]
        found = self._session.run(names, {INPUT_NAME: images})
        return np.asarray(np.concatenate(found, axis=1), dtype=np.float32)

    def forward(self, images: Tensor) -> Tensor:
        """Rows of images."""
        return torch.from_numpy(self.run(images.numpy()))


def classifier_backbone(
    network: Path, *, name: str, source: str, preprocessing: Preprocessing, rows: Rows, threads: int = 0
) -> Backbone:
    """The wrapped classifier at `network` as a backbone of which nothing is tuned."""
    return Backbone(
        kind=KIND,
        name=name,
        source=source,
        weights_sha256=file_sha256(network),
        cut=None,
        width=rows.width,
        preprocessing=preprocessing,
        trunk=ClassifierTrunk(network, threads=threads),
        tail=nn.Identity(),
        rows=rows,
    )


def rebuild(folder: Path, *, sha256: str) -> ClassifierTrunk:
    """The wrapped classifier of the run in `folder`. Raises `FormatError` where it is missing or another one."""
    network = folder / CLASSIFIER_FILE
    if not network.is_file():
        raise FormatError(f"{folder} is incomplete: it has no {CLASSIFIER_FILE}")
    if file_sha256(network) != sha256:
        raise FormatError(f"{network} is not the classifier that the run was made for: its SHA-256 does not match")
    return ClassifierTrunk(network)
