"""The graph of a run around somebody else's classifier: its `classifier.onnx` with the heads appended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from oodguard.core.classifier import CLASSIFIER_FILE, FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import FormatError, InputError
from oodguard.core.manifest import INPUT_NAME, Precision
from oodguard.core.preprocessing import Pixels
from oodguard.export.anatomy import arithmetic
from oodguard.export.fuse import AppendedHeads
from oodguard.export.graph import heads_to_onnx, session
from oodguard.export.opsets import opset_of
from oodguard.export.photos import photos_of, pixel_batches
from oodguard.export.quantize import quantised
from oodguard.export.unchanged import BATCH, Own, joined
from oodguard.training.backbone.features import batches
from oodguard.training.photos.division import found_again
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

# Of a scale for each column of a weight, which the heads' first layer needs.
INT8_OPSET = 13


@dataclass(frozen=True)
class WrappedGraph:
    """What the fused graph of a wrapped classifier is made of, and the images that it is compared on.

    ```python
    graph, images = WrappedGraph(run, run_folder, golden=pixels, data=None, report=report).float32(metadata)
    ```

    data: where the run's photos are now (None: where they were). Its test photos are compared on where they are found.
    """

    run: Run
    run_folder: Path
    golden: Pixels
    data: Path | None
    report: Reporter

    @classmethod
    def of(
        cls, run: Run, run_folder: Path, *, golden: Pixels, data: Path | None, report: Reporter
    ) -> WrappedGraph | None:
        """None for a run of a backbone: nothing was wrapped."""
        if run.record.classifier is None:
            return None
        return cls(run=run, run_folder=run_folder, golden=golden, data=data, report=report)

    @cached_property
    def own(self) -> Own:
        """The classifier by itself. Raises `FormatError` where the run has lost it."""
        path = self.run_folder / CLASSIFIER_FILE
        if not path.is_file():
            raise FormatError(f"{self.run_folder} is incomplete: it has no {CLASSIFIER_FILE}")
        return Own(graph=path.read_bytes(), heads=self.run.heads, calibration=self.run.record.calibration)

    @cached_property
    def arithmetic(self) -> Precision:
        """What the classifier computes in."""
        return arithmetic(onnx.load_from_string(self.own.graph))

    def float32(self, metadata: Mapping[str, str]) -> tuple[bytes, int]:
        """The graph whose scores are PyTorch's, and on how many images its probabilities are the classifier's own.

        Raises `QualityError` where no such graph leaves them as they are.
        """
        return joined(self.own, self.heads, self._batches, metadata=metadata)

    def int8(self, images: Iterable[Pixels]) -> bytes:
        """The same with the heads' first layer in int8, by ranges measured on `images`, batches of pixels.

        No node of the classifier's is touched. Raises `InputError` where its version of ONNX has no such layers.
        """
        opset = opset_of(onnx.load_from_string(self.own.graph))
        if opset < INT8_OPSET:
            raise InputError(
                f"int8 needs opset {INT8_OPSET} or newer, and {CLASSIFIER_FILE} in {self.run_folder} is of opset "
                f"{opset}; export fp32, in which the heads cost little"
            )
        small = quantised(self.heads, self._feeds(images))
        graph, _ = joined(self.own, small, self._batches, metadata={}, exact=False)
        return graph

    @cached_property
    def heads(self) -> bytes:
        """The heads by themselves, from `feature` and `logits`."""
        shapes = self.run.record.heads
        return heads_to_onnx(AppendedHeads(self.run).eval(), width=shapes.width, classes=shapes.own_classes)

    def _feeds(self, images: Iterable[Pixels]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        running, names = session(self.own.graph), [FEATURE_NAME, LOGITS_NAME]
        for batch in images:
            yield dict(zip(names, running.run(names, {INPUT_NAME: batch}), strict=True))

    def _batches(self) -> Iterator[Pixels]:
        for rows in batches(len(self.golden), BATCH):
            yield self.golden[rows]
        yield from pixel_batches(
            self._test_photos,
            self.run.record.preprocessing,
            stage="probabilities compared, bit for bit",
            report=self.report,
            size=BATCH,
        )

    @cached_property
    def _test_photos(self) -> tuple[Photo, ...]:
        try:
            photos, _ = photos_of(self.run, data=self.data)
            return found_again(photos, self.run.division.test)
        except InputError:
            if self.data is not None:
                raise
            return ()
