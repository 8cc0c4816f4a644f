"""The pooled feature of a network, whatever shape it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError


class Pooled(nn.Module):
    """A network that gives maps or tokens, with their mean in place of them: `[B, D]`."""

    def __init__(self, network: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.places = tuple(places)

    def forward(self, images: Tensor) -> Tensor:
        """The mean over all places of an image."""
        found: Tensor = self.network(images)
        return found.mean(self.places)


@torch.no_grad()
def feature_of(network: nn.Module, images: Tensor, *, flat: bool = True) -> Tensor:
    """What a network, or a part of one, gives for what it takes of B images: `[B, D]`, or not yet flattened."""
    found = network(images)
    if not isinstance(found, Tensor):
        raise InputError(f"the backbone gives {type(found).__name__}, and a guard needs one feature for each image")
    return found.flatten(1) if flat else found


@torch.no_grad()
def with_feature(model: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, int]:
    """A timm model that gives one feature `[B, D]` for each image, and D.

    Without its classifier a model gives its pooled feature; of one that gives maps or tokens, the mean over all places
    is taken. Raises `InputError` for a model that does not take images of `size`, or gives anything else.
    """
    try:
        found = model(torch.zeros(2, 3, *size))
    except Exception as error:  # a model may raise anything where a size does not fit
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the backbone does not take images of {size[0]} x {size[1]} pixels ({reason}); leave --image-size out"
        ) from None
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 2:
        raise InputError("the backbone does not give a feature for each image; choose one that classifies images")
    if found.ndim == 2:
        return model, int(found.shape[1])
    width = int(getattr(model, "num_features", 0))
    axes = [axis for axis in range(1, found.ndim) if found.shape[axis] == width] or [1]
    places = [axis for axis in range(1, found.ndim) if axis != axes[-1]]
    return Pooled(model, places), int(found.shape[axes[-1]])
