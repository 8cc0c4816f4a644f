"""The heads of an exported graph as arrays: read from its constants, and written back with one more class.

The exporter has folded some of them (a transposed bank, the squared lengths of centres), under names of its own. Such a
constant is known by its value, which is a function of the others; so a graph of any precision can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from oodguard.core.errors import FormatError
from oodguard.core.manifest import PROBABILITIES_NAME
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Outputs
from oodguard.training.heads.density import Density
from oodguard.training.heads.guard import GuardHeads
from oodguard.training.heads.scores import squared_distances
from oodguard.training.record import HeadShapes

Floats = npt.NDArray[np.float32]

# What training calls them, which is what the exporter keeps.
W2, B2 = "heads.w2", "heads.b2"
ANCHOR_ROWS, ANCHORED_W2, ANCHORED_B2 = "heads.anchor_rows", "heads.anchored_w2", "heads.anchored_b2"
MEAN, PROJECTION = "heads.density.mean", "heads.density.projection"
BANK, BANK_RESIDUAL = "heads.density.bank", "heads.density.bank_residual"
WHITENING, RESIDUAL_PRECISION = "heads.density.whitening", "heads.density.residual_precision"


@dataclass(frozen=True)
class FeatureRows:
    """What the heads read of N images: the feature `[N, D]`, and the output of their shared first layer `[N, F]`."""

    feature: Floats
    first: Floats

    def __len__(self) -> int:
        return len(self.feature)

    def rows(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> FeatureRows:
        """Those of some of the images."""
        return FeatureRows(feature=self.feature[chosen], first=self.first[chosen])


@dataclass(frozen=True)
class Hidden:
    """What the last layers read of N images: of the members `[M, N, H]`, of the anchored head `[N, K, H]`, of ICE
    `[N, I]`; the density's coordinates `[N, d]` and squared residuals `[N]`."""

    members: Floats
    anchored: Floats
    ice: Floats
    q: Floats
    residual: Floats


@dataclass(frozen=True)
class HeadParts:
    """The heads behind the first layer: last layers `[M, H, C]` and `[H, C]` with biases `[M, 1, C]` and `[C]`, ICE's
    centres `[C, I]`, and the density with the means `[C, d]` of the classes and a bank `[N, d]`.

    neighbours: k of the nearest-neighbour score.
    """

    w2: Floats
    b2: Floats
    anchor_rows: Floats
    anchored_w2: Floats
    anchored_b2: Floats
    ice_centres: Floats
    mean: Floats
    projection: Floats
    bank: Floats
    bank_residual: Floats
    whitening: Floats
    class_means: Floats
    residual_precision: Floats
    neighbours: int

    @property
    def classes(self) -> int:
        """C."""
        return len(self.class_means)

    def hidden(self, rows: FeatureRows) -> Hidden:
        """What the last layers and the density read of these images."""
        members, width, _ = self.w2.shape
        ends = np.cumsum([members * width, width, self.ice_centres.shape[1]])
        parts = np.split(rows.first, ends, axis=1)
        q, residual = self._density().coordinates(torch.from_numpy(rows.feature))
        return Hidden(
            members=np.maximum(parts[0], 0).reshape(-1, members, width).transpose(1, 0, 2),
            anchored=np.maximum(parts[1][:, None] + self.anchor_rows, 0),
            ice=parts[2],
            q=q.numpy(),
            residual=residual.numpy(),
        )

    @torch.no_grad()
    def answers(self, rows: FeatureRows, scores: tuple[ScoreName, ...]) -> Outputs:
        """What the definitions of the scores give for these images: PyTorch, with no graph."""
        hidden = self.hidden(rows)
        logits = torch.baddbmm(*map(_tensor, (self.b2, hidden.members, self.w2)))
        anchored = _tensor(hidden.anchored) @ _tensor(self.anchored_w2) + _tensor(self.anchored_b2)
        heights = -squared_distances(_tensor(hidden.ice), _tensor(self.ice_centres))
        density, q, residual = self._density(), _tensor(hidden.q), _tensor(hidden.residual)
        to_bank, to_means = density.distances(q, residual)
        logits, table = self._heads(scores).score(logits, anchored, heights, to_bank, to_means)
        neighbours, distances = density.nearest(q, residual, to_bank)
        return Outputs(
            probabilities=logits.softmax(-1).mean(0).numpy(),
            scores=table.numpy(),
            neighbours=neighbours.numpy(),
            distances=distances.numpy(),
        )

    def _density(self) -> Density:
        density = Density(
            width=len(self.projection), density_width=self.projection.shape[1], classes=1, bank=len(self.bank)
        )
        for name in ("mean", "projection", "bank", "bank_residual", "whitening", "class_means", "residual_precision"):
            setattr(density, name, _tensor(getattr(self, name)))
        return density

    def _heads(self, scores: tuple[ScoreName, ...]) -> GuardHeads:
        """Heads of these sizes, for the one function that gives every score; their weights are not used."""
        return GuardHeads(
            HeadShapes(
                classes=self.classes,
                width=1,
                hidden=1,
                members=len(self.w2),
                anchors=self.anchor_rows.shape[1],
                ice_width=1,
                density_width=1,
                bank=1,
                neighbours=self.neighbours,
                scores=scores,
            )
        )

    def constants(self) -> Iterator[Floats]:
        """Every constant of a graph that grows with the classes or with the bank, in one fixed order."""
        yield from (self.w2, self.b2, self.anchored_w2, self.anchored_b2)
        yield from (self.bank, self.bank.T, np.square(self.bank).sum(-1), self.bank_residual)
        root = np.sqrt(self.bank_residual)
        yield from (root, root[:, None])
        for centres in (self.class_means, self.ice_centres):
            yield from (centres, centres.T, np.square(centres).sum(-1))

    @classmethod
    def read(cls, model: onnx.ModelProto) -> HeadParts:
        """The heads of a fused graph. Raises `FormatError` where it is none, or has other heads."""
        return _Reader(model).parts()


def tensors(model: onnx.ModelProto) -> tuple[str, str]:
    """The names of the feature `[B, D]` and of the first layer's output `[B, F]`. Raises as `HeadParts.read` does."""
    reader = _Reader(model)
    return reader.feature, reader.split.input[0]


def rewritten(model: onnx.ModelProto, old: HeadParts, new: HeadParts) -> onnx.ModelProto:
    """A graph with the heads `new` in the place of `old`, whose nodes stay as they are; `model` is not changed.

    Raises `FormatError` where a constant of the old heads is not found.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    pairs = list(zip(old.constants(), new.constants(), strict=True))
    found = 0
    for place, tensor in enumerate(graph.initializer):
        value = numpy_helper.to_array(tensor) if tensor.data_type == onnx.TensorProto.FLOAT else None
        match = next((after for before, after in pairs if value is not None and _same(value, before)), None)
        if match is not None:
            made = numpy_helper.from_array(np.ascontiguousarray(match, dtype=np.float32), tensor.name)
            graph.initializer[place].CopyFrom(made)
            found += 1
    if found < len(pairs) - UNUSED_CONSTANTS:
        raise FormatError("the graph's heads are not those that this oodguard exports; export the run again")
    # Shapes that were inferred for the old heads.
    del graph.value_info[:]
    for value in graph.output:
        if value.name == PROBABILITIES_NAME:
            value.type.tensor_type.shape.dim[1].dim_value = new.classes
    onnx.checker.check_model(changed)
    return changed


# Of `HeadParts.constants`, those that graphs hold only transposed: means and ICE's centres.
UNUSED_CONSTANTS = 2


def _same(value: npt.NDArray[np.generic], other: Floats) -> bool:
    return value.shape == other.shape and np.allclose(value, other, rtol=1e-5, atol=1e-7)


def _tensor(value: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(value))


class _Reader:
    """Finds the heads in a graph by the names of training, and what follows by who reads what."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.values = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        anchored = self._one(lambda node: node.op_type == "Add" and ANCHOR_ROWS in node.input)
        unsqueezed = self._maker(next(name for name in anchored.input if name != ANCHOR_ROWS))
        self.split = self._maker(unsqueezed.input[0])
        centred = self._one(lambda node: node.op_type == "Sub" and MEAN in node.input)
        self.feature = str(self._maker(centred.input[0]).input[0])

    def parts(self) -> HeadParts:
        """Every part."""
        whitened = self._one(lambda node: node.op_type == "MatMul" and WHITENING in node.input)
        means = self._one(lambda node: node.op_type == "MatMul" and node.input[0] == whitened.output[0])
        ice = self._one(lambda node: node.op_type == "MatMul" and node.input[0] == self.split.output[2])
        nearest = self._one(self._is_ranking)
        return HeadParts(
            w2=self._value(W2),
            b2=self._value(B2),
            anchor_rows=self._value(ANCHOR_ROWS),
            anchored_w2=self._value(ANCHORED_W2),
            anchored_b2=self._value(ANCHORED_B2),
            ice_centres=np.ascontiguousarray(self._value(ice.input[1]).T),
            mean=self._value(MEAN),
            projection=self._value(PROJECTION),
            bank=self._value(BANK),
            bank_residual=self._value(BANK_RESIDUAL),
            whitening=self._value(WHITENING),
            class_means=np.ascontiguousarray(self._value(means.input[1]).T),
            residual_precision=self._value(RESIDUAL_PRECISION),
            neighbours=int(self._value(nearest.input[1]).ravel()[0]),
        )

    def _is_ranking(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives the distance to the k-th nearest photo: of the two that rank, the one whose distances
        are read."""
        if node.op_type != "TopK" or not self._reads_bank(node.input[0]):
            return False
        return any(node.output[0] in other.input for other in self.nodes)

    def _reads_bank(self, name: str) -> bool:
        """Whether a value is computed with the bank's residuals."""
        maker = self.makers.get(name)
        return maker is not None and (BANK_RESIDUAL in maker.input or any(map(self._reads_bank, maker.input[:1])))

    def _one(self, wanted: Callable[[onnx.NodeProto], bool]) -> onnx.NodeProto:
        found = [node for node in self.nodes if wanted(node)]
        if len(found) != 1:
            raise self._foreign()
        return found[0]

    def _maker(self, name: str) -> onnx.NodeProto:
        if name not in self.makers:
            raise self._foreign()
        return self.makers[name]

    def _value(self, name: str) -> Floats:
        if name not in self.values:
            raise self._foreign()
        return np.asarray(numpy_helper.to_array(self.values[name]))

    @staticmethod
    def _foreign() -> FormatError:
        return FormatError("the graph's heads are not those that this oodguard exports; export the run again")
