"""The tensors of a checkpoint, fitted to a timm model: what wrappers put before their names, and what is left over."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.checkpoint import Checkpoint
from oodguard.training.backbone.timm_loader import timm

# Prefixes that wrappers of one network put before its names: DistributedDataParallel, torch.compile, Lightning, timm.
WRAPPERS = frozenset({"module", "_orig_mod", "model", "timm_model", "net", "network", "backbone"})
NAMED = 3
# Counts that old versions of PyTorch did not write, and that nothing reads once a network is trained.
COUNTERS = ".num_batches_tracked"


@dataclass(frozen=True)
class Fitted:
    """A checkpoint's tensors by a model's own names.

    prefix: what stood before them. beside: names, in the file, of tensors that stood outside it.
    """

    state: dict[str, Tensor]
    prefix: str
    beside: tuple[str, ...]


def load_fitting(model: nn.Module, checkpoint: Checkpoint, *, name: str, heads: Sequence[str] = ()) -> tuple[str, ...]:
    """Load a checkpoint into `model`; lines that say what of the file is not used.

    heads: layers of the network that `model` was built without, as in "fc"; their tensors may be left over. The
    network's own names are found behind any prefix. Where names or shapes are not the model's, timm's converter for
    that architecture is asked, which knows the authors' own names and other input sizes. Raises `InputError`, in one
    sentence with counts and names, for tensors that are missing, not part of the network or of another shape, and for
    parameters that are not finite.
    """
    wanted = model.state_dict()
    fitted = without_prefix(checkpoint, wanted, name=name)
    state, left = _parted(fitted.state, wanted, heads)
    if _faults(state, wanted):
        converted, left = _parted(_converted(model, fitted.state), wanted, heads)
        state = state if _faults(converted, wanted) else converted
    if faults := _faults(state, wanted):
        raise InputError(f"{checkpoint.path} does not fit {name}: {'; '.join(faults)}{_said(checkpoint, name)}")
    counters = {key: value for key, value in wanted.items() if key.endswith(COUNTERS)}
    model.load_state_dict({**counters, **state})
    for key, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"{checkpoint.path} holds numbers that are not finite, in {key}; its training diverged")
    lines = [] if checkpoint.found is None else [checkpoint.found]
    left |= {key: checkpoint.state[key] for key in fitted.beside}
    if line := _unused_head(left, heads, checkpoint):
        lines.append(line)
    others = [key for key in fitted.beside if not _of_heads(key, heads)]
    if others:
        lines.append(
            f"{len(others)} tensors of {checkpoint.path.name} are no part of {name} and not used{_some(others)}"
        )
    return tuple(lines)


def without_prefix(checkpoint: Checkpoint, wanted: Mapping[str, Tensor], *, name: str) -> Fitted:
    """The tensors whose names, behind one prefix, are those of a network; the prefix that fits most of them.

    Raises `InputError` where the file holds the network more than once, and no copy is known to be the one to take.
    """
    names = [key for key in wanted if not key.endswith(COUNTERS)]
    anchors = {names[0], names[-1], names[len(names) // 2]}
    prefixes = {
        key[: len(key) - len(anchor)]
        for key in checkpoint.state
        for anchor in anchors
        if key == anchor or key.endswith("." + anchor)
    }
    counts = {prefix: sum(prefix + key in checkpoint.state for key in names) for prefix in prefixes}
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    prefix = _chosen(best, checkpoint, name) if best else ""
    return Fitted(
        state={key[len(prefix) :]: value for key, value in checkpoint.state.items() if key.startswith(prefix)},
        prefix=prefix,
        beside=tuple(key for key in checkpoint.state if not key.startswith(prefix)),
    )


def _chosen(prefixes: Sequence[str], checkpoint: Checkpoint, name: str) -> str:
    """Of prefixes that fit equally well: the averaged copy, else the one that only wrappers wrote."""
    averaged = [prefix for prefix in prefixes if "ema" in re.split(r"[._]", prefix)]
    wrapped = [prefix for prefix in prefixes if WRAPPERS.issuperset(prefix.split(".")[:-1])]
    for choice in (list(prefixes), averaged, wrapped):
        if len(choice) == 1:
            return choice[0]
    raise InputError(
        f"{checkpoint.path} holds {name} {len(prefixes)} times, under {', '.join(sorted(prefixes))}; save the one that "
        "you mean alone"
    )


def _parted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a network, and those of the heads that it was built without."""
    left = {key: value for key, value in state.items() if key not in wanted and _of_heads(key, heads)}
    return {key: value for key, value in state.items() if key not in left}, left


def _of_heads(key: str, heads: Sequence[str]) -> bool:
    """Whether a tensor is of one of these layers, by its name behind any prefix."""
    return any(f".{head}." in f".{key}" for head in heads)


def _faults(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from being loaded, each kind with its count and its first names."""
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTERS)]
    spare = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {_shape(state[key])}, not {_shape(value)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of its {len(wanted)} tensors are missing{_some(missing)}")
    if spare:
        faults.append(f"{len(spare)} are no part of it{_some(spare)}")
    if shapes:
        faults.append(f"{len(shapes)} have another shape{_some(shapes)}")
    return faults


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NAMED else ""
    return f" ({', '.join(names[:NAMED])}{more})"


def _said(checkpoint: Checkpoint, name: str) -> str:
    """What to do, where the file says which network it is of."""
    told = checkpoint.network
    if told is None or told.split(".")[0] == name.split(".")[0] or not timm.is_model(told):
        return ""
    return f"; the file says that it is of {told}: give --backbone {told}"


def _converted(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors as timm's converter for this architecture gives them; as they were, where it has none."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        found = convert(dict(state), model)
    except Exception:  # converters expect tensors of their architecture, and raise anything on others
        return state
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _unused_head(left: Mapping[str, Tensor], heads: Sequence[str], checkpoint: Checkpoint) -> str | None:
    """The line on a classifier that a model was built without; None where the file has none."""
    sizes = [len(value) for key, value in left.items() if value.ndim in (2, 4) and key.endswith(".weight")]
    if not sizes or not any(_of_heads(key, heads) for key in left):
        return None
    return f"classifier of {sizes[-1]} classes in {checkpoint.path.name} is not used; oodguard wrap keeps it"
