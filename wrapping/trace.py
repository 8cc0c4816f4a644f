"""From an output of a classifier back to its logits, its last layer and the feature that enters it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oodguard.core.classifier import Activation
from oodguard.wrapping.graph import Graph, attribute

ACTIVATIONS: dict[str, Activation] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}
LAYERS = frozenset(
    {
        "Gemm",
        "MatMul",
        "Conv",
        "QGemm",
        "MatMulInteger",
        "QLinearMatMul",
        "QLinearConv",
        "ConvInteger",
        "FusedGemm",
        "FusedMatMul",
        "FusedConv",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    }
)
CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "ConvInteger", "FusedConv"})
_INTEGER_ONLY = frozenset({"MatMulInteger", "ConvInteger", "MatMulIntegerToFloat"})
_SAME = frozenset(("Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Dropout"))
_SHAPES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"))
_RESHAPES = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_POOLS = frozenset(("GlobalAveragePool", "AveragePool", "GlobalMaxPool", "ReduceMean", "QLinearGlobalAveragePool"))
# What may stand between a convolution's classes and the pool behind it.
_CURVES = frozenset(("Relu", "LeakyRelu", "Clip"))
_SCALED = frozenset(("Add", "Sub", "Mul", "Div"))


@dataclass(frozen=True)
class Found:
    """What an output is made of."""

    activation: Activation
    is_log: bool
    """Whether the output holds logarithms of probabilities."""
    logits: str
    layer: Any
    """The node of the last layer; None where none was found."""
    feature: str
    """What enters it; empty where no layer was found."""
    bias: str
    """Added behind the layer by a node of its own; empty where none is."""
    is_plain: bool
    """Whether the logits are the layer and its bias, and nothing more."""
    dropout: str
    """The output of a Dropout between feature and layer; empty where none is."""


def trace(graph: Graph, output: str, *, logits: str | None = None) -> Found:
    """The parts behind `output`; `logits` names them instead of the search."""
    activation, is_log, found = _activated(graph, output)
    logits = logits or found
    layer, bias, is_plain = _last_layer(graph, logits)
    if layer is None:
        return Found(activation, is_log, logits, None, "", "", False, "")
    feature = layer.input[0]
    maker = graph.makers.get(feature)
    if layer.op_type in _INTEGER_ONLY and maker is not None and maker.op_type == "DynamicQuantizeLinear":
        feature = maker.input[0]
    dropout = ""
    while (maker := graph.makers.get(feature)) is not None and maker.op_type == "Dropout":
        dropout, feature = feature, maker.input[0]
    return Found(activation, is_log, logits, layer, feature, bias, is_plain, dropout)


def _activated(graph: Graph, output: str) -> tuple[Activation, bool, str]:
    """What makes probabilities of the logits, whether the logarithm is taken, and the logits."""
    name = output
    while (node := graph.makers.get(name)) is not None:
        if node.op_type in ACTIVATIONS:
            return ACTIVATIONS[node.op_type], node.op_type == "LogSoftmax", _behind(graph, node.input[0])
        if spelled := _spelled_softmax(graph, node):
            return "softmax", False, _behind(graph, spelled)
        if spelled := _spelled_logarithm(graph, node):
            return "softmax", True, _behind(graph, spelled)
        if spelled := _spelled_sigmoid(graph, node):
            return "sigmoid", False, _behind(graph, spelled)
        if node.op_type not in _SAME | _SHAPES | {"Clip"}:
            break
        name = node.input[0]
    return "none", False, output


def _behind(graph: Graph, name: str) -> str:
    """The same values in front of Identity nodes."""
    while (node := graph.makers.get(name)) is not None and node.op_type == "Identity":
        name = node.input[0]
    return name


def taps(graph: Graph, name: str) -> list[str]:
    """The tensors with the values of this one in its order, itself first: those in front of nodes that reshape."""
    found = [name]
    while (node := graph.makers.get(found[-1])) is not None and node.op_type in _RESHAPES:
        found.append(node.input[0])
    return found


def _source(graph: Graph, name: str, kind: str) -> Any:
    """The node of this kind that makes a tensor, behind nodes that move values only; None where another does."""
    while (node := graph.makers.get(name)) is not None:
        if node.op_type == kind:
            return node
        if node.op_type not in _SAME | _SHAPES:
            return None
        name = node.input[0]
    return None


def _spelled_softmax(graph: Graph, node: Any) -> str:
    """The logits of a softmax in single steps that ends in `node`; empty where it is none."""
    if node.op_type == "Div":
        top, bottom = node.input
    elif node.op_type == "Mul":
        reciprocals = [_source(graph, name, "Reciprocal") for name in node.input]
        if (reciprocals[0] is None) == (reciprocals[1] is None):
            return ""
        top = node.input[0] if reciprocals[0] is None else node.input[1]
        bottom = next(one.input[0] for one in reciprocals if one is not None)
    else:
        return ""
    exp, total = _source(graph, top, "Exp"), _source(graph, bottom, "ReduceSum")
    if exp is None or total is None or _source(graph, total.input[0], "Exp") is not exp:
        return ""
    return _unshifted(graph, exp.input[0])


def _unshifted(graph: Graph, name: str) -> str:
    """The logits whose largest was subtracted, to keep their powers small; the tensor itself where none was."""
    shifted = _source(graph, name, "Sub")
    if shifted is not None:
        largest = _source(graph, shifted.input[1], "ReduceMax")
        if largest is not None and _behind(graph, largest.input[0]) == _behind(graph, shifted.input[0]):
            return str(shifted.input[0])
    return name


def _spelled_logarithm(graph: Graph, node: Any) -> str:
    """The logits of a LogSoftmax in single steps that ends in `node`: x less the logarithm of a sum of powers of x."""
    if node.op_type != "Sub":
        return ""
    top = _behind(graph, node.input[0])
    whole = _source(graph, node.input[1], "ReduceLogSumExp")
    if whole is None:
        logarithm = _source(graph, node.input[1], "Log")
        total = None if logarithm is None else _source(graph, logarithm.input[0], "ReduceSum")
        whole = None if total is None else _source(graph, total.input[0], "Exp")
    return _unshifted(graph, top) if whole is not None and _behind(graph, whole.input[0]) == top else ""


def _spelled_sigmoid(graph: Graph, node: Any) -> str:
    """The logits of 1 / (1 + exp(-x)) in single steps that ends in `node`; empty where it is none."""
    if node.op_type == "Reciprocal":
        bottom = node.input[0]
    elif node.op_type == "Div" and node.input[0] not in graph.varying:
        bottom = node.input[1]
    else:
        return ""
    total = _source(graph, bottom, "Add")
    if total is None:
        return ""
    for name in total.input:
        exp = _source(graph, name, "Exp")
        negative = None if exp is None else _source(graph, exp.input[0], "Neg")
        if negative is not None:
            return str(negative.input[0])
    return ""


def _last_layer(graph: Graph, logits: str) -> tuple[Any, str, bool]:
    """The node of the last layer behind the logits, the bias added behind it, and whether nothing else is between."""
    name, bias, is_plain = logits, "", True
    while (node := graph.makers.get(name)) is not None:
        kind = node.op_type
        if kind in LAYERS:
            weighs = len(node.input) > 1 and node.input[0] in graph.varying and _is_weight(graph, node)
            return (node, bias, is_plain) if weighs else (None, "", False)
        if kind in _SCALED:
            varying = [one for one in node.input if not _is_factor(graph, one)]
            if len(varying) != 1:
                break
            if kind == "Add" and not bias and is_plain:
                bias = next(one for one in node.input if one != varying[0])
            elif kind != "Mul" or any(one not in graph.varying for one in node.input):
                is_plain = False
            name = varying[0]
            continue
        if kind == "QLinearAdd" and (node.input[0] in graph.varying) != (node.input[3] in graph.varying):
            is_plain, name = False, node.input[0] if node.input[0] in graph.varying else node.input[3]
            continue
        if kind not in _SAME | _SHAPES | _POOLS | _CURVES:
            break
        is_plain = is_plain and kind not in _POOLS | _CURVES | {"Transpose", "Expand"}
        name = node.input[0]
    return None, "", False


def _is_weight(graph: Graph, node: Any) -> bool:
    """Whether what a layer multiplies with is a constant, and not read across the batch."""
    at = 3 if node.op_type in ("QGemm", "QLinearMatMul", "QLinearConv") else 1
    return bool(len(node.input) > at and node.input[at] not in graph.varying and not attribute(node, "transA", 0))


def _is_factor(graph: Graph, name: str) -> bool:
    """Whether a tensor is a constant, or a scale that dynamic quantisation computes."""
    if name not in graph.varying:
        return True
    node = graph.makers.get(name)
    if node is None:
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return bool(name == node.output[1])
    return node.op_type in ("Mul", "Cast", "Identity") and all(_is_factor(graph, one) for one in node.input)
