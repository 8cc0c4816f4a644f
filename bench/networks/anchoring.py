"""Anchoring any network at its input (AMP paper, Appendix C): only the first layer changes.

first([c, x - c]) = W_c c + W_r (x - c) + b
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from oodguard.core.errors import InputError


def anchor_input(network: nn.Module) -> nn.Module:
    """The same network with a first layer over [c, x - c], twice the channels. For timm models and our own.

    Both halves start with half of the first layer's weights. Raises `InputError` where the first layer is neither a
    plain convolution nor linear.
    """
    anchored = copy.deepcopy(network)
    path, first = _first(anchored)
    halves = nn.Parameter(torch.cat([first.weight, first.weight], dim=1).detach() / 2)
    wider: nn.Module
    if isinstance(first, nn.Linear):
        wider = nn.Linear(2 * first.in_features, first.out_features, bias=first.bias is not None)
    else:
        wider = type(first)(
            2 * first.in_channels,
            first.out_channels,
            first.kernel_size,  # type: ignore[arg-type]
            first.stride,  # type: ignore[arg-type]
            first.padding,  # type: ignore[arg-type]
            first.dilation,  # type: ignore[arg-type]
            bias=first.bias is not None,
        )
    wider.weight = halves
    if first.bias is not None:
        wider.bias = nn.Parameter(first.bias.detach().clone())
    _replace(anchored, path, wider)
    return anchored


def _first(network: nn.Module) -> tuple[str, nn.Conv2d | nn.Linear]:
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            grouped = isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros")
            if type(module).forward not in (nn.Conv2d.forward, nn.Linear.forward) or grouped:
                break
            return path, module
    raise InputError("this network cannot be anchored: its first layer is not a plain convolution or linear layer")


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)
