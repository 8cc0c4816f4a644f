"""Networks for small images, by name: THE registry.

A network is named `KIND` or `KIND-SIZE-...`, such as `resnet18` and `wrn-40-2`. To add one, write a function that
builds a `Network` and list it in `NETWORKS`. Backbones for photos have a registry of their own, in `training/backbone`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from oodguard.bench.networks.network import Network
from oodguard.bench.networks.residual import resnet18, wide_resnet
from oodguard.core.errors import InputError


@dataclass(frozen=True)
class NetworkKind:
    """`build(*sizes, classes=C)` makes a network over `[B, 3, S, S]`; `sizes` names its whole numbers."""

    build: Callable[..., Network]
    sizes: tuple[str, ...] = ()


NETWORKS: Mapping[str, NetworkKind] = {
    "wrn": NetworkKind(wide_resnet, ("DEPTH", "WIDEN")),
    "resnet18": NetworkKind(resnet18),
}


def network_of(name: str, *, classes: int) -> Network:
    """An untrained network for `classes` classes. Raises `InputError` for another name or sizes that do not fit."""
    kind, *sizes = name.split("-")
    known = NETWORKS.get(kind)
    if known is None or len(sizes) != len(known.sizes) or not all(size.isdecimal() for size in sizes):
        forms = ", ".join("-".join((kind, *entry.sizes)) for kind, entry in NETWORKS.items())
        raise InputError(f"there is no network {name!r}; networks: {forms}")
    return known.build(*map(int, sizes), classes=classes)
