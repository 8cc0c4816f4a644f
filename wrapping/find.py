"""Finding the parts of a classifier in its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from oodguard.core.classifier import Activation, ClassifierRecord, Layout
from oodguard.core.errors import InputError
from oodguard.wrapping.candidates import features, last_tensors, logits_like
from oodguard.wrapping.file import Foreign, read
from oodguard.wrapping.fixed import still
from oodguard.wrapping.graph import Array, Graph
from oodguard.wrapping.heads import class_output, shape_of
from oodguard.wrapping.inputs import DTYPES, further_inputs, image_input, layouts, sizes
from oodguard.wrapping.labels import class_names
from oodguard.wrapping.parts import ClassifierParts
from oodguard.wrapping.probe import FREE_SIDES, OTHER, images, run, session
from oodguard.wrapping.trace import CONVOLUTIONS, Found, trace

MAX_WIDTH = int(next(one.le for one in ClassifierRecord.model_fields["width"].metadata if hasattr(one, "le")))
# How far a softmax of the logits may be from the output: float16 and int8 files round in between.
_NEAR = 0.02


def find_parts(
    path: Path | str,
    *,
    feature: str | None = None,
    logits: str | None = None,
    constants: Mapping[str, Sequence[float]] | None = None,
) -> ClassifierParts:
    """The parts of the classifier in `path`; `feature` and `logits` name tensors where the search would go wrong.

    `constants` are the values of inputs that the file asks for beside the image.

    Raises `InputError` (of it, `FormatError`) in one sentence that names the file or the tensor.
    """
    return _Search(read(Path(path)), constants or {}).parts(feature=feature, logits=logits)


class _Search:
    """One search in one file, whose model it changes: Dropout is switched off."""

    def __init__(self, foreign: Foreign, constants: Mapping[str, Sequence[float]]) -> None:
        self.foreign = foreign
        self.file = foreign.path.name
        self.live = still(foreign.model)
        self.graph = Graph(foreign.model)
        self.image = image_input(self.graph, self.file, constants)
        self.dims = [size or None for size in sizes(self.image)]
        self.dtype = DTYPES[self.image.type.tensor_type.elem_type]
        self.more = further_inputs(self.graph, self.file, self.image.name, constants)
        self.batch = self.dims[0]
        self.rows = self.batch or 2
        # Where it runs, and its output for some images.
        self.layout: Layout = "NCHW"
        self.size = (0, 0)
        self.output, self.value = "", np.zeros((0, 0))

    def parts(self, *, feature: str | None, logits: str | None) -> ClassifierParts:
        outputs = list(self.foreign.model.graph.output)
        kinds = {one.name: one.type.WhichOneof("value") for one in outputs}
        odd = next((name for name, kind in kinds.items() if kind not in (None, "tensor_type")), None)
        if odd is not None:
            raise InputError(
                f"output {odd!r} of {self.file} is a sequence or a map, not a tensor; export it without ZipMap"
            )
        answers = self._run(self.foreign.path, [one.name for one in outputs], optimised=True)
        for what, name in (("logits", logits), ("feature", feature)):
            if name is not None and name not in self.graph.varying:
                raise InputError(f"no tensor of {self.file} that depends on the image is called {name!r} (--{what})")
        self.output = class_output(self.graph, self.file, answers, rows=self.rows, logits=logits)
        self.value = answers[self.output]
        found = trace(self.graph, self.output, logits=logits)
        feature = feature or found.feature
        if not feature:
            raise InputError(
                f"the last layer of {self.file} was not found behind {found.logits!r}; {self._which('feature')}"
            )
        for what, name in (("logits", found.logits), ("feature", feature)):
            if name not in self.graph.ancestors(self.output):
                raise InputError(f"{name!r} has no part in output {self.output!r} of {self.file}; {self._which(what)}")
        seen = self._values([found.logits, feature])
        activation, is_log = self._activation(found, self._plain(seen[found.logits], found.logits))
        width, shape = self._width(feature, seen[feature], found)
        names, notes = class_names(self.foreign.metadata, self.value.size // self.rows)
        if self.live:
            where = f", and the feature is in front of {found.dropout}" if found.dropout in self.live else ""
            shown = ", ".join(self.live[:3])
            notes = (f"Dropout is switched on in the file ({shown}); it is off in the guarded copy{where}", *notes)
        return ClassifierParts(
            file=self.file,
            sha256=self.foreign.sha256,
            data=self.foreign.data,
            producer=self.foreign.producer,
            opset=self.foreign.opset,
            input=self.image.name,
            layout=self.layout,
            dtype=self.dtype,
            size=self._sizes(),
            fixed_batch=self.batch,
            constants=tuple((name, tuple(map(float, value.ravel()))) for name, value in self.more.items()),
            output=self.output,
            output_dtype=str(self.value.dtype),
            output_scale=self._scale(),
            is_log=is_log,
            activation=activation,
            logits=found.logits,
            logits_dtype=str(seen[found.logits].dtype),
            feature=feature,
            feature_dtype=str(seen[feature].dtype),
            width=width,
            feature_shape=shape,
            classes=self.value.size // self.rows,
            class_names=names,
            last=self._between(feature),
            probe=self.size,
            notes=notes,
        )

    def _run(self, source: bytes | Path, names: Sequence[str], *, optimised: bool) -> dict[str, Array]:
        """The outputs of these names for a few images, in the first layout and size that it takes."""
        of = session(source, name=self.file, optimised=optimised)
        reason = ""
        for layout in layouts(self.image):
            height, width = self.dims[2:] if layout == "NCHW" else self.dims[1:3]
            for side in FREE_SIDES if None in (height, width) else FREE_SIDES[:1]:
                size = (height or side, width or side)
                batch = images(self.rows, size, layout=layout, dtype=self.dtype, seed=1, centred=True)
                try:
                    values = run(of, names, {self.image.name: batch, **self.more})
                except RuntimeError as error:
                    reason = reason or str(error)
                    continue
                self.layout, self.size = layout, size
                return dict(zip(names, values, strict=True))
        raise InputError(f"{self.file} cannot be run on images of the size it asks for: {reason}")

    def _sizes(self) -> tuple[int | None, int | None]:
        """Height and width; a size that is declared free and is the only one that runs is fixed."""
        height, width = self.dims[2:] if self.layout == "NCHW" else self.dims[1:3]
        if height is not None and width is not None:
            return height, width
        other = (height or self.size[0] + OTHER, width or self.size[1] + OTHER)
        batch = images(self.rows, other, layout=self.layout, dtype=self.dtype, seed=1, centred=True)
        try:
            of = session(self.foreign.path, name=self.file)
            answer = run(of, [self.output], {self.image.name: batch, **self.more})[0]
        except RuntimeError:
            return self.size
        return (height, width) if answer.shape == self.value.shape else self.size

    def _values(self, names: Sequence[str]) -> dict[str, Array]:
        """The values of tensors inside, computed as the file spells them."""
        model = type(self.foreign.model)()
        model.CopyFrom(self.foreign.model)
        have = {one.name for one in model.graph.output}
        added = [name for name in dict.fromkeys(names) if name not in have]
        model.graph.output.extend(map(helper.make_empty_tensor_value_info, added))
        return self._run(model.SerializeToString(), names, optimised=False)

    def _plain(self, value: Array, name: str) -> Array:
        """A row of numbers for each image, of an int8 tensor those that it stands for."""
        rows = value.reshape(len(value), -1).astype(np.float64)
        if value.dtype.kind == "f":
            return rows
        scale, zero = self._steps(name) or (1.0, 0)
        return (rows - zero) * scale

    def _steps(self, name: str) -> tuple[float, int] | None:
        """The scale and the zero point of an int8 tensor."""
        named = self.graph.quantisation(name)
        scale, zero = (None, None) if named is None else map(self.graph.value, named)
        if scale is None:
            return None
        return float(scale.ravel()[0]), 0 if zero is None else int(zero.ravel()[0])

    def _scale(self) -> tuple[float, int] | None:
        # Files that say nothing spread 0 to 1 over the 256 values.
        return None if self.value.dtype.kind == "f" else self._steps(self.output) or (1 / 256, 0)

    def _activation(self, found: Found, logits: Array) -> tuple[Activation, bool]:
        """What makes the output of the logits, and whether it is a logarithm: as found, or as the numbers say."""
        out = self.value.reshape(len(self.value), -1).astype(np.float64)
        if (steps := self._scale()) is not None:
            out = (out - steps[1]) * steps[0]
        if logits.shape != out.shape:
            raise InputError(
                f"{found.logits!r} of {self.file} holds {logits[0].size} numbers per image and output {self.output!r} "
                f"{out[0].size}; {self._which('logits')}"
            )
        if found.logits == self.output:
            # Rows that sum to 1 were made in a way that the search does not know.
            if out.min() >= 0 and np.allclose(out.sum(1), 1, atol=_NEAR):
                raise InputError(
                    f"output {self.output!r} of {self.file} holds probabilities, and how they are made was not found; "
                    f"{self._which('logits')}"
                )
            return "none", False
        shifted = logits - logits.max(1, keepdims=True)
        logarithm = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        tries: list[tuple[Activation, bool, Array]] = [
            ("softmax", False, np.exp(logarithm)),
            ("softmax", True, logarithm),
            ("sigmoid", False, 1 / (1 + np.exp(-np.clip(logits, -700, 700)))),
            ("none", False, logits),
        ]
        tries.sort(key=lambda one: one[:2] != (found.activation, found.is_log))
        for activation, is_log, made in tries:
            scale = float(np.abs(made).max(initial=1)) if is_log or activation == "none" else 1.0
            if np.allclose(made, out, rtol=0, atol=_NEAR * max(scale, 1.0)):
                return activation, is_log
        raise InputError(
            f"output {self.output!r} of {self.file} is neither {found.logits!r} nor its softmax or sigmoid; "
            f"{self._which('logits')}"
        )

    def _width(self, feature: str, value: Array, found: Found) -> tuple[int, tuple[int, ...]]:
        """How many numbers the feature has, and its shape for one image."""
        if value.ndim < 2 or value.shape[0] != self.rows or value.dtype.kind not in "fiu":
            raise InputError(
                f"{feature!r} of {self.file} is {shape_of(value)}, not a row for each of {self.rows} images; name "
                "another tensor with --feature"
            )
        shape = tuple(map(int, value.shape[1:]))
        in_maps = found.layer is None or found.layer.op_type in CONVOLUTIONS
        is_flat = max(shape) == np.prod(shape) or (
            found.feature == feature and self._takes_whole_map(found.layer, shape)
        )
        width = int(np.prod(shape)) if is_flat else shape[0 if in_maps else -1]
        if width > MAX_WIDTH:
            raise InputError(
                f"feature {feature!r} of {self.file} has {width:,} numbers and may have {MAX_WIDTH:,}; name a later "
                "tensor with --feature"
            )
        return width, shape

    def _takes_whole_map(self, layer: Any, shape: tuple[int, ...]) -> bool:
        """Whether a convolution's kernel is as large as what it reads, so that it is a Gemm on all of that."""
        if layer is None or layer.op_type not in CONVOLUTIONS:
            return False
        weight = self.graph.value(layer.input[3 if layer.op_type == "QLinearConv" else 1])
        return bool(weight is not None and len(shape) == 3 and weight.shape[2:] == shape[1:])

    def _between(self, feature: str) -> tuple[str, ...]:
        """The operators from the feature to the output, in order."""
        reached, kinds = {feature}, []
        wanted = self.graph.ancestors(self.output)
        for node in self.graph.graph.node:
            if any(name in reached for name in node.input) and any(name in wanted for name in node.output):
                reached.update(node.output)
                kinds.append(node.op_type)
        return tuple(kinds)

    def _which(self, what: str) -> str:
        """The tensors that may be meant, with their shapes."""
        fits = logits_like if what == "logits" else features
        near = last_tensors(self.graph, self.output)
        try:
            seen = self._values(near)
        except InputError:
            return f"name it with --{what}"
        most = self.value.size // self.rows if what == "logits" else MAX_WIDTH
        fitting = [name for name in near if name != self.output and fits(seen[name], self.rows, most)]
        shown = ", ".join(f"{name} {shape_of(seen[name])}" for name in fitting[-8:])
        return f"name it with --{what}, one of: {shown}" if shown else f"name it with --{what}"
