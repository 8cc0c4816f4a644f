"""A copy of a classifier that a guard can be built on: any batch; probabilities, feature and logits as outputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from oodguard.core.classifier import FEATURE_NAME, LOGITS_NAME, Batch, ClassifierRecord
from oodguard.core.errors import InputError
from oodguard.core.manifest import INPUT_NAME
from oodguard.wrapping.batch import BATCH, clear_of_ours, one_by_one, opened
from oodguard.wrapping.file import MAX_BYTES, opset_of, read
from oodguard.wrapping.fixed import settle, still
from oodguard.wrapping.graph import Array, Graph, prune
from oodguard.wrapping.outputs import OUTPUTS, put_outputs
from oodguard.wrapping.parts import ClassifierParts
from oodguard.wrapping.same import LARGEST, Original, alike, answers, equal, feeds_of, is_independent, samples
from oodguard.wrapping.trace import taps

# The oldest operators that heads are written in.
MIN_OPSET = 12


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A self-contained graph with outputs `probabilities`, `feature` and `logits`, float32, a row for each image."""

    graph: bytes
    input: str
    """The name that the input has in this graph; as in the user's file unless one of ours is called so."""
    parts: ClassifierParts
    batch: Batch
    notes: tuple[str, ...]

    def record(self) -> ClassifierRecord:
        """What a run keeps of the classifier; the caller adds what the photos say."""
        parts = self.parts
        return ClassifierRecord.model_validate(
            {
                "file": parts.file,
                "sha256": parts.sha256,
                "producer": parts.producer,
                "opset": parts.opset,
                "input": parts.input,
                "layout": parts.layout,
                "dtype": parts.dtype,
                "batch": self.batch,
                "output": parts.output,
                "activation": parts.activation,
                "logits": parts.logits,
                "feature": parts.feature,
                "width": parts.width,
            }
        )


def prepare(path: Path | str, parts: ClassifierParts) -> Prepared:
    """The prepared copy of the file that `parts` were found in, proven on images to give the file's own bits.

    Raises `InputError` where the probabilities change when a tensor is read, or the operators cannot be converted.
    """
    foreign = read(Path(path))
    if foreign.sha256 != parts.sha256 or foreign.data != parts.data:
        raise InputError(f"{parts.file} changed while it was read; start again")
    feeds = feeds_of({one.name: one for one in foreign.model.graph.input}, parts)
    original = Original(Path(path), parts, feeds)
    return _Preparation(foreign.model, parts, original).prepared()


class _Preparation:
    """One file on its way to a prepared graph; `model` is changed."""

    def __init__(self, model: Any, parts: ClassifierParts, original: Original) -> None:
        self.parts = parts
        self.original = original
        self.notes = list(parts.notes)
        self.pixels = samples(parts)
        still(model)
        settle(model, dict(parts.constants))
        self.model = _modern(model, parts)
        taken = (*OUTPUTS, BATCH) if parts.input == INPUT_NAME else (*OUTPUTS, INPUT_NAME)
        changed = clear_of_ours(self.model.graph, taken)
        names = {
            key: changed.get(getattr(parts, key), getattr(parts, key))
            for key in ("input", "output", "logits", "feature")
        }
        self.renamed = replace(parts, **names)

    def prepared(self) -> Prepared:
        model = self._with_outputs()
        graph, batch = self._batched(model)
        if len(graph) > MAX_BYTES:
            raise InputError(f"{self.parts.file} is too large for one ONNX graph; export it in float16")
        return Prepared(graph=graph, input=self.renamed.input, parts=self.parts, batch=batch, notes=tuple(self.notes))

    def _with_outputs(self) -> Any:
        """The model with the three outputs, and nothing changed in its probabilities."""
        expected = self._expected()
        # Reading a tensor may keep the runtime from fusing what makes it; in front of a reshape, it often does not.
        places = taps(Graph(self.model), self.renamed.feature)
        for copied, tap in itertools.product((False, True), places):
            model = _copy(self.model)
            if not put_outputs(model, self.renamed, tap=tap, copied=copied):
                continue
            prune(model.graph, OUTPUTS)
            if self._keeps(model, expected):
                if copied:
                    self.notes.append(
                        f"reading {self.parts.logits} would change probabilities by a rounding step: the logits are "
                        "computed from the feature, by a float copy of the last layer"
                    )
                return model
        raise InputError(
            f"the probabilities of {self.parts.file} change when {self._guilty(expected)} is read beside them; name "
            "another tensor with --feature or --logits"
        )

    def _expected(self) -> dict[int, Array]:
        """What the file itself gives, by the batch it is run at."""
        batches = (self.parts.fixed_batch,) if self.parts.fixed_batch else (1, LARGEST)
        return {batch: self.original.probabilities(self.pixels, batch=batch) for batch in batches}

    def _keeps(self, model: Any, expected: dict[int, Array]) -> bool:
        """Whether a model gives these probabilities, bit for bit."""
        graph = model.SerializeToString()
        for batch, wanted in expected.items():
            pixels = self.pixels[: len(self.pixels) // batch * batch]
            try:
                made = answers(graph, self.parts, self.renamed.input, pixels, batch=batch)
            except RuntimeError as error:
                raise InputError(f"the prepared copy of {self.parts.file} cannot be run: {error}") from error
            if not equal(made[0], wanted[: len(pixels)]):
                return False
        return True

    def _guilty(self, expected: dict[int, Array]) -> str:
        """The tensor whose reading changes the probabilities."""
        for name, tensor in ((FEATURE_NAME, self.parts.feature), (LOGITS_NAME, self.parts.logits)):
            model = _copy(self.model)
            put_outputs(model, self.renamed, tap=self.renamed.feature, copied=False)
            # The other tensor is still an output, but it is the probabilities.
            other = LOGITS_NAME if name == FEATURE_NAME else FEATURE_NAME
            for node in model.graph.node:
                for index, made in enumerate(node.output):
                    if made == other:
                        node.output[index] = f"{other}.unread"
            model.graph.node.append(onnx.helper.make_node("Identity", [OUTPUTS[0]], [other]))
            prune(model.graph, OUTPUTS)
            if not self._keeps(model, expected):
                return repr(tensor)
        return f"{self.parts.feature!r} or {self.parts.logits!r}"

    def _batched(self, model: Any) -> tuple[bytes, Batch]:
        """The graph for any batch, and how it came to take one."""
        fixed, name = self.parts.fixed_batch, self.renamed.input
        if fixed is None:
            graph = _named(model, name).SerializeToString()
            if is_independent(graph, self.parts, name):
                return bytes(graph), "dynamic"
            reason = "it takes batches, but their images influence each other"
        else:
            graph = opened(model, name, fixed).SerializeToString()
            right = self._is_right(graph, model)
            if right == "bits":
                return bytes(graph), "made dynamic"
            reason = f"it takes batches of {fixed} only, and gives no right answers in others"
            if right == "numbers":
                reason = (
                    f"it takes batches of {fixed} only, and in others the last digits of its probabilities would change"
                )
        self.notes.append(f"images run one by one: {reason}")
        graph = one_by_one(model, name, fixed).SerializeToString()
        if self._is_right(graph, model) != "bits":
            raise InputError(
                f"{self.parts.file} gives other probabilities when its images run one by one; export it with a "
                "dynamic batch"
            )
        return bytes(graph), "one by one"

    def _is_right(self, graph: bytes, model: Any) -> Literal["bits", "numbers", "no"]:
        """How well a graph gives in batches of every size what the file gives: to the bit, or but for rounding."""
        name = self.renamed.input
        fixed = self.parts.fixed_batch or 1
        pixels = self.pixels[: len(self.pixels) // fixed * fixed]
        wanted = self.original.probabilities(pixels, batch=fixed)
        before = answers(model.SerializeToString(), self.parts, name, pixels, batch=fixed)
        exact = True
        for batch in (1, 3, LARGEST):
            try:
                after = answers(graph, self.parts, name, pixels, batch=batch)
            except (RuntimeError, InputError):
                return "no"
            if not all(map(alike, before, after)):
                return "no"
            exact = exact and equal(after[0], wanted)
        return "bits" if exact else "numbers"


def _modern(model: Any, parts: ClassifierParts) -> Any:
    """The model in operators of version 12 or newer."""
    graph = Graph(model)
    # Constants that are listed as inputs too would become inputs that callers must fill.
    wanted = {one.name for one in graph.inputs}
    for index in reversed(range(len(model.graph.input))):
        if model.graph.input[index].name not in wanted:
            del model.graph.input[index]
    model.ir_version = max(model.ir_version, 4)
    if opset_of(model) >= MIN_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:  # The converter raises classes of its own that share no base.
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"{parts.file} has operators of version {parts.opset} that cannot be converted to {MIN_OPSET} ({reason}); "
            f"export it with opset {MIN_OPSET} or newer"
        ) from error


def _named(model: Any, input_name: str) -> Any:
    """A copy whose first input dimension has the name that the outputs' has."""
    copy = _copy(model)
    for one in copy.graph.input:
        if one.name == input_name:
            one.type.tensor_type.shape.dim[0].dim_param = BATCH
    return copy


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy
