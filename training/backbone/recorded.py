"""A network as the operations that it runs, cut in two after any of its modules.

`torch.export` runs the network once and records every tensor operation, whatever Python does around them, and the
module that each belongs to. So any network that becomes an ONNX graph can also be cut.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, fx, nn

# They state what recording saw (a device, a type), which another device or autocast changes.
_STATEMENTS = (torch.ops.aten._assert_tensor_metadata.default,)


class Recording:
    """The operations of a network for images `[B, 3, H, W]` of one size and any B, in the order in which they run."""

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        """Raises whatever `torch.export` raises for a network that it cannot follow."""
        example = torch.zeros(2, 3, *size)
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
            self.module = program.module(check_guards=False)
        graph = self.module.graph
        for node in [n for n in graph.nodes if n.target in _STATEMENTS]:
            graph.erase_node(node)
        graph.eliminate_dead_code()
        self.nodes: list[fx.Node] = list(graph.nodes)
        (self.images,) = (n for n in self.nodes if n.op == "placeholder")
        # Values that hold something of the images, and not only how many they are.
        self._shown: set[fx.Node] = set()
        for node in self.nodes:
            if node is self.images or (_is_tensor(node) and self._shown & set(node.all_input_nodes)):
                self._shown.add(node)

    def module_before(self, parameters: Sequence[str]) -> str | None:
        """The largest module that is through when the first of `parameters` is needed; None where there is none."""
        wanted = {n for n in self.nodes if n.op == "get_attr" and str(n.target) in set(parameters)}
        place = next((i for i, node in enumerate(self.nodes) if wanted & set(node.all_input_nodes)), 0)
        later = {owner for node in self.nodes[place:] for owner in _owners(node)}
        for node in reversed(self.nodes[:place]):
            for owner in _owners(node):
                if owner and owner not in later:
                    return owner
        return None

    def cut_after(self, module: str) -> tuple[nn.Module, nn.Module]:
        """The operations up to the last of `module` and the rest: `(trunk, tail)`.

        The trunk returns what the rest needs of it: the one value as it is, or several flattened, `[B, N]`. Raises
        `ValueError` where nothing of the images crosses, or something that cannot be kept in a table of numbers.
        """
        place = max((i + 1 for i, node in enumerate(self.nodes) if _belongs(node, module)), default=0)
        before, after = self.nodes[:place], self.nodes[place:]
        if not any(node.op == "call_function" and node in self._shown for node in before):
            raise ValueError(f"no operation belongs to {module}")
        needed = {source for node in after for source in node.all_input_nodes}
        crossing = [node for node in before if node in self._shown and node in needed]
        if not crossing:
            raise ValueError("nothing crosses the cut")
        values = [_value(node) for node in crossing]
        trunk, tail = self._first(crossing), self._rest(crossing, after)
        if len(values) > 1 or values[0].rows > 1:
            _join(trunk, values)
            _part(tail, values)
        halves = Program(self.module, trunk), Program(self.module, tail)
        return apart(halves[0].eval(), halves[1].eval())

    def _first(self, crossing: Sequence[fx.Node]) -> fx.Graph:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        last = max(self.nodes.index(node) for node in crossing)
        for node in self.nodes[: last + 1]:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        kept = tuple(copies[node] for node in crossing)
        graph.output(kept if len(kept) > 1 else kept[0])
        graph.eliminate_dead_code()
        return graph

    def _rest(self, crossing: Sequence[fx.Node], after: Sequence[fx.Node]) -> fx.Graph:
        graph = fx.Graph()
        copies = {node: graph.placeholder(f"value_{i}") for i, node in enumerate(crossing)}
        count: list[fx.Node] = []
        rows = _value(crossing[0]).rows

        def images() -> fx.Node:
            if not count:
                size = graph.call_function(torch.ops.aten.sym_size.int, (copies[crossing[0]], 0))
                count.append(size if rows == 1 else graph.call_function(operator.floordiv, (size, rows)))
            return count[0]

        def again(node: fx.Node) -> fx.Node:
            """What the rest needs of the first operations but does not take from the images is computed again."""
            if node not in copies:
                value = node.meta.get("val")
                if isinstance(value, torch.SymInt):
                    copies[node] = graph.call_function(operator.mul, (images(), _times(value)))
                else:
                    for source in node.all_input_nodes:
                        again(source)
                    copies[node] = graph.node_copy(node, lambda n: copies[n])
            return copies[node]

        for node in after[:-1]:
            for source in node.all_input_nodes:
                again(source)
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        # A recorded program returns a tuple, here of the feature alone.
        (feature,) = after[-1].all_input_nodes
        graph.output(copies[feature])
        graph.eliminate_dead_code()
        return graph


def apart(trunk: nn.Module, tail: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The same halves, with weights of their own where they share some: those of the trunk must stay as they are."""
    own = {id(p) for p in trunk.parameters()}
    return trunk, copy.deepcopy(tail) if any(id(p) in own for p in tail.parameters()) else tail


class Program(fx.GraphModule):
    """Recorded operations as a module."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As every module's; tensors that the operations make are then made where its weights are."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        where = fn(torch.empty(0)).device
        for node in self.graph.nodes:
            if "device" in node.kwargs and node.kwargs["device"] is not None:
                node.kwargs = {**node.kwargs, "device": where}
        self.recompile()
        return self


@dataclass(frozen=True)
class _Value:
    """A value `[rows * B, *shape]` of B images."""

    rows: int
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many there are of one image."""
        return self.rows * torch.Size(self.shape).numel()


def _join(graph: fx.Graph, values: Sequence[_Value]) -> None:
    """Let the graph return its values flattened as one, `[B, N]`."""
    (output,) = (n for n in graph.nodes if n.op == "output")
    found = output.args[0]
    with graph.inserting_before(output):
        flat = [
            graph.call_function(torch.ops.aten.reshape.default, (node, [-1, value.numbers]))
            for node, value in zip(found if isinstance(found, tuple) else (found,), values, strict=True)
        ]
        output.args = (graph.call_function(torch.ops.aten.cat.default, (flat, 1)),)


def _part(graph: fx.Graph, values: Sequence[_Value]) -> None:
    """Let the graph take its values flattened as one, `[B, N]`."""
    given = [n for n in graph.nodes if n.op == "placeholder"]
    with graph.inserting_before(given[0]):
        whole = graph.placeholder("values")
    first = next(n for n in graph.nodes if n.op != "placeholder")
    start = 0
    for node, value in zip(given, values, strict=True):
        with graph.inserting_before(first):
            part = graph.call_function(torch.ops.aten.narrow.default, (whole, 1, start, value.numbers))
            shaped = graph.call_function(torch.ops.aten.reshape.default, (part, [-1, *value.shape]))
        node.replace_all_uses_with(shaped)
        graph.erase_node(node)
        start += value.numbers


def _is_tensor(node: fx.Node) -> bool:
    """Whether a value is made of tensors; sizes are numbers."""
    return not isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def _value(node: fx.Node) -> _Value:
    """The shape of a value. Raises `ValueError` for what is no float tensor with rows for each image."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError("more than numbers crosses the cut")
    sizes: list[object] = list(value.shape)
    if len(sizes) < 2 or not isinstance(sizes[0], torch.SymInt):
        raise ValueError("what crosses the cut is not of each image")
    if any(isinstance(side, torch.SymInt) for side in sizes[1:]):
        raise ValueError("what crosses the cut depends on the number of images")
    return _Value(_times(sizes[0]), tuple(int(side) for side in value.shape[1:]))


def _times(size: torch.SymInt) -> int:
    """k of a size that is k times the number of images. Raises `ValueError` for another one."""
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if len(symbols) != 1:
        raise ValueError("a size follows from more than the number of images")
    one, two = (expression.subs(symbols[0], number) for number in (1, 2))
    if two != 2 * one or not one.is_integer:
        raise ValueError("a size is not a multiple of the number of images")
    return int(one)


def _belongs(node: fx.Node, module: str) -> bool:
    return any(owner == module or owner.startswith(module + ".") for owner in _owners(node))


def _owners(node: fx.Node) -> list[str]:
    """The modules that run an operation, the outermost first."""
    return [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
