"""Cutting a network in two: a trunk that stays frozen and a tail that fine-tuning may change."""

from __future__ import annotations

import inspect
import warnings

from torch import fx, nn

from oodguard.core.errors import InputError


def split(model: nn.Module, *, tune: bool) -> tuple[nn.Module, nn.Module, str | None]:
    """Cut a model after its next-to-last feature level: `(trunk, tail, name of the last frozen module)`.

    For EfficientNet-Lite0 that is the 14 x 14 x 112 activation (the last two stages and the final convolution
    follow), for a ResNet `layer3`, for a vision transformer the next-to-last block. With `tune=False` the whole
    model is the trunk. Raises `InputError` when a model cannot be cut there.
    """
    if not tune:
        return model, nn.Identity(), None
    levels = getattr(model, "feature_info", None)
    reason = "it does not list its feature levels"
    if levels is not None and len(levels) >= 2:
        cut = str(levels[len(levels) - 2]["module"])
        try:
            return (*_cut_after(model, cut), cut)
        except Exception as error:  # symbolic tracing raises many types on a model it cannot follow
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise InputError(f"this backbone cannot be cut for fine-tuning ({reason}); train with --no-fine-tune")


class _Tracer(fx.Tracer):
    """Traces through a model's own containers and keeps timm's layers whole (their forward has checks on shapes)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith(("torch.nn", "timm.layers")) and not isinstance(m, nn.Sequential)


def _cut_after(model: nn.Module, cut: str) -> tuple[nn.Module, nn.Module]:
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
    return halves[0], halves[1]


def _belongs(node: fx.Node, path: str) -> bool:
    owners = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        owners.append(str(node.target))
    return any(owner == path or owner.startswith(path + ".") for owner in owners)
