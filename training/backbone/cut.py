"""Cutting a network in two: a trunk that stays frozen and a tail that fine-tuning may change."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from oodguard.training.backbone.pooled import feature_of
from oodguard.training.backbone.recorded import Recording, apart
from oodguard.training.backbone.timm_loader import timm

# Of the feature's length: halves that are the network give its very numbers, but for the order of sums.
MAX_ERROR = 1e-4
# Of a model's weights, which a tail must have to be worth tuning.
MIN_SHARE = 1e-3

Parts = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Halves:
    """A network in two parts: `tail(trunk(x))` is its feature `[B, D]`.

    cut: the last module of the trunk; None: the trunk is all of it, and `whole_because` says why, where it had to be.
    recorded: whether the parts are operations that were recorded (`Recording`), and not traced modules.
    """

    trunk: nn.Module
    tail: nn.Module
    cut: str | None = None
    recorded: bool = False
    whole_because: str | None = None


def split(model: nn.Module, size: tuple[int, int], *, tune: bool) -> Halves:
    """Cut a model of features `[B, D]` of images `[B, 3, *size]` before its last feature level.

    timm lists the levels (`feature_info`), and the layer groups of its optimisers (`group_matcher`), which say where
    the last level begins if the list names no module. For EfficientNet-Lite0 the cut is the 14 x 14 x 112 activation
    (the last two stages and the final convolution follow), for a ResNet `layer3`, for a vision transformer the
    next-to-last block.

    Where symbolic tracing cannot follow a model, its operations are recorded. Both parts together must give the model's
    own feature of noise. A model that leads nowhere, or of which nothing may be tuned, is a trunk as a whole.
    """
    if not tune:
        return Halves(model, nn.Identity())
    images = _noise(size)
    own = feature_of(model, images)
    reason = "timm lists no feature levels of it"

    def halves(cut: str | None, parts: Callable[[str], Parts], *, recorded: bool) -> Halves | None:
        nonlocal reason
        if cut is None:
            return None
        try:
            trunk, tail = parts(cut)
            # A row at a time: activations of different batches meet in the tail.
            rows = feature_of(trunk, images, flat=False)
            found = torch.cat([feature_of(tail, rows[i : i + 1]) for i in range(len(rows))])
        except Exception as error:  # tracing and recording raise many types on a model that they cannot follow
            reason = _first_line(error)
            return None
        if not float((found - own).norm()) <= MAX_ERROR * float(own.norm()):
            reason = f"cut after {cut}, it gives another feature"
            return None
        if _weights(tail) < MIN_SHARE * _weights(model):
            reason = f"next to nothing that learns comes after {cut}"
            return None
        return Halves(trunk, tail, cut=cut, recorded=recorded)

    listed = _listed(model)
    found = halves(listed, lambda cut: _cut_traced(model, cut), recorded=False)
    if found is not None:
        return found
    try:
        recording = Recording(model, size)
    except Exception as error:  # torch.export raises many types, too
        return Halves(model, nn.Identity(), whole_because=_first_line(error))
    for cut in (listed, recording.module_before(_last_group(model))):
        found = halves(cut, recording.cut_after, recorded=True)
        if found is not None:
            return found
    return Halves(model, nn.Identity(), whole_because=reason)


def split_again(model: nn.Module, size: tuple[int, int], *, cut: str | None, recorded: bool) -> Parts:
    """Trunk and tail of a model that `split` cut after `cut`. Raises whatever a model that has changed leads to."""
    if cut is None:
        return model, nn.Identity()
    return Recording(model, size).cut_after(cut) if recorded else _cut_traced(model, cut)


def _noise(size: tuple[int, int]) -> Tensor:
    """Two images, without a number from the generator that training draws from."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _listed(model: nn.Module) -> str | None:
    """The next-to-last feature level by timm's list."""
    levels = getattr(model, "feature_info", None)
    return None if levels is None or len(levels) < 2 else str(levels[len(levels) - 2]["module"])


def _last_group(model: nn.Module) -> Sequence[str]:
    """The names of the weights in the last of timm's layer groups; none where it has no groups of the model."""
    try:
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    except (AttributeError, AssertionError):
        return ()
    return tuple(groups[max(groups)])


class _Tracer(fx.Tracer):
    """Traces through a model's own containers and keeps timm's layers whole (their forward has checks on shapes)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith(("torch.nn", "timm.layers")) and not isinstance(m, nn.Sequential)


def _cut_traced(model: nn.Module, cut: str) -> Parts:
    parameters = list(inspect.signature(model.forward).parameters.values())
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(_Tracer().trace(model, concrete_args=defaults).nodes)
    last = max((i for i, node in enumerate(nodes) if _belongs(node, cut)), default=None)
    if last is None:
        raise ValueError(f"no operation belongs to {cut}")
    before, after = nodes[: last + 1], nodes[last + 1 :]
    computed = {node for node in before if node.op != "get_attr"}
    crossing = {source for node in after for source in node.all_input_nodes if source in computed}
    if len(crossing) != 1:
        raise ValueError(f"{len(crossing)} values cross the cut after {cut}")
    (value,) = crossing
    trunk = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = trunk.node_copy(node, lambda n: copies[n])
    trunk.output(copies[value])
    tail = fx.Graph()
    copies = {value: tail.placeholder("features")}
    for node in [n for n in before if n.op == "get_attr"] + after:
        copies[node] = tail.node_copy(node, lambda n: copies[n])
    halves = []
    for graph in (trunk, tail):
        half = fx.GraphModule(model, graph)
        graph.eliminate_dead_code()
        half.delete_all_unused_submodules()
        half.recompile()
        halves.append(half.eval())
    return apart(halves[0], halves[1])


def _belongs(node: fx.Node, path: str) -> bool:
    owners = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        owners.append(str(node.target))
    return any(owner == path or owner.startswith(path + ".") for owner in owners)
