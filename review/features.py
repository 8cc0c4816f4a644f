"""Comparing pictures by the feature that the bundle's own graph computes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from oodguard.core.bank import NEAREST, Bank
from oodguard.core.errors import FormatError, ImageError
from oodguard.core.explainer import neighbours_of
from oodguard.core.explanation import Neighbour
from oodguard.core.images import OWN_FILES
from oodguard.core.manifest import DISTANCES_NAME, INPUT_NAME, NEIGHBOURS_NAME, Manifest
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.review.measures import Level, Measurement

# The one weight that every fused graph has, which only the heads' first layer reads; in int8 it comes out of a node.
_FIRST_LAYER = re.compile(r"(^|\.)heads\.wide(_DequantizeLinear_Output)?$")
_PRODUCTS = ("MatMul", "Gemm")
_SILENT = 3
# Mean of 1 - cosine. Features of different kinds of things are 0.75 to 0.85 apart where they are all positive, and 0.9
# to 1.0 where their mean is taken off, as heads around a foreign classifier do; of one unseen kind, 0.4 and 0.7.
LIMITS: Mapping[Level, float] = {Level.FINE: 0.45, Level.USUAL: 0.6, Level.COARSE: 0.7}
CENTRED_SCALE = 1.25


@dataclass(frozen=True)
class Features:
    """For N images: features `[N, D]`, and for each the nearest training photos (empty without a bank)."""

    features: npt.NDArray[np.float32]
    neighbours: tuple[tuple[Neighbour, ...], ...]


class FeatureGraph:
    """The graph of a bundle with one more output, made in memory: the feature that the heads read.

    ```python
    graph = FeatureGraph(bundle, load_manifest(bundle), threads=2)
    graph.run([load_pixels(data, manifest.preprocessing)]).features
    ```

    The bundle's file stays as it is. Raises `FormatError` for a graph that is not a fused guard.
    """

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int = 0) -> None:
        self._manifest = manifest
        self._bank = None if manifest.bank is None else Bank.read(bundle / manifest.bank)
        model = onnx.load(bundle / manifest.graph)
        self._feature = feature_name(model)
        # Heads around a foreign classifier take the mean of the training features off.
        self.centred = any(node.op_type == "Sub" and self._feature in node.output for node in model.graph.node)
        if all(value.name != self._feature for value in model.graph.output):
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._feature))
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises types of its own for every kind of bad graph
            raise FormatError(
                f"{bundle / manifest.graph} cannot be loaded ({str(error).splitlines()[0]}); export it again"
            ) from None

    def run(self, pixels: list[Pixels]) -> Features:
        """The features of a batch of images, as `load_pixels` gives them."""
        named = self._bank is not None
        wanted = [self._feature, *((NEIGHBOURS_NAME, DISTANCES_NAME) if named else ())]
        feature, *near = self._session.run(wanted, {INPUT_NAME: np.stack(pixels)})
        found = np.asarray(feature, dtype=np.float32).reshape(len(pixels), -1)
        return Features(
            features=found,
            neighbours=tuple(self._named(near[0][row], near[1][row]) if named else () for row in range(len(pixels))),
        )

    def _named(self, rows: npt.NDArray[np.int32], distances: npt.NDArray[np.float32]) -> tuple[Neighbour, ...]:
        assert self._bank is not None
        found = sorted(zip(distances.tolist(), rows.tolist(), strict=True))[:NEAREST]
        held = ((distance, row) for distance, row in found if 0 <= row < len(self._bank))
        return neighbours_of(self._bank, self._manifest.classes, held)


class ByFeature:
    """Compares pictures by the cosine of their features: of one kind of thing they are alike, known or not.

    ```python
    ByFeature(bundle, load_manifest(bundle), threads=1).measure([data])
    ```

    Raises `FormatError` for a bundle that is damaged or whose graph shows no feature.
    """

    rule = "by the model's own feature: the same kind of thing"

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int = 0) -> None:
        self._graph = FeatureGraph(bundle, manifest, threads=threads)
        self._preprocessing = manifest.preprocessing
        self.key = f"feature-1 {manifest.graph_sha256}"
        scale = CENTRED_SCALE if self._graph.centred else 1.0
        self.limits: Mapping[Level, float] = {level: scale * limit for level, limit in LIMITS.items()}

    def measure(self, pictures: Sequence[bytes]) -> list[Measurement | ImageError]:
        """A measurement of each encoded picture, or why there is none."""
        found: list[Measurement | ImageError | None] = []
        pixels: list[Pixels] = []
        for data in pictures:
            try:
                pixels.append(load_pixels(data, self._preprocessing, OWN_FILES))
                found.append(None)
            except ImageError as error:
                found.append(error)
        made = iter(self._measured(pixels) if pixels else ())
        return [next(made) if one is None else one for one in found]

    def _measured(self, pixels: list[Pixels]) -> Iterator[Measurement]:
        outputs = self._graph.run(pixels)
        length = np.linalg.norm(outputs.features, axis=1, keepdims=True)
        vectors = outputs.features / np.maximum(length, 1e-12)
        for vector, neighbours in zip(vectors, outputs.neighbours, strict=True):
            yield Measurement(vector, neighbours)


def feature_name(model: onnx.ModelProto) -> str:
    """What the graph calls the feature: the other factor of the heads' first layer. Raises `FormatError`."""
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and any(map(_FIRST_LAYER.search, node.input)):
            return next(str(name) for name in node.input if not _FIRST_LAYER.search(name))
    raise FormatError("the bundle's graph shows no feature to group by; leave out --bundle, or export it again")
