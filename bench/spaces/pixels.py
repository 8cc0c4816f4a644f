"""Pixels as the space that methods learn in: small convolutional networks, trained on images of 32 x 32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from oodguard.bench.networks.anchoring import anchor_input
from oodguard.bench.networks.catalogue import network_of
from oodguard.bench.networks.network import Network
from oodguard.training.backbone.timm_loader import transforms
from oodguard.training.loop import Schedule

PADDING = 4
CORRUPTION_GROUP = 16


@dataclass(frozen=True)
class PixelSpace:
    """uint8 images `[N, 3, S, S]`; networks by name (`networks/catalogue.py`) over normalised pixels.

    mean, std: of each channel, for pixels scaled to 0..1. A training view is a random crop of the image
    padded by four black pixels, and a random flip; each image of a batch has its own.

    ```python
    space = PixelSpace(name="wrn-40-2", side=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), scratch=..., ...)
    ```
    """

    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scratch: Schedule
    heads: Schedule
    fine_tune: Schedule

    @property
    def unit(self) -> float:
        """1: pixels are normalised."""
        return 1.0

    def network(self, *, classes: int, anchored: bool = False) -> Network:
        """A network of this name; an anchored one has six input channels."""
        network = network_of(self.name, classes=classes)
        if not anchored:
            return network
        wider = anchor_input(network)
        assert isinstance(wider, Network)
        return wider

    def draw(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Random crops and flips of the images `rows`, normalised: `[B, 3, S, S]`."""
        count = len(rows)
        images = inputs[torch.randint(len(inputs), (count,)), rows]
        padded = functional.pad(images, (PADDING,) * 4)
        top, left = torch.randint(2 * PADDING + 1, (2, count))
        # Every window as a view; the gather copies the chosen one of each image.
        windows = padded.unfold(2, self.side, 1).unfold(3, self.side, 1)
        cropped = windows[torch.arange(count), :, top, left]
        flipped = torch.rand(count) < 0.5
        return self.plain(torch.where(flipped[:, None, None, None], cropped.flip(-1), cropped))

    def plain(self, inputs: Tensor) -> Tensor:
        """Normalised pixels."""
        mean, std = self._channels(inputs)
        return (inputs.float() / 255.0 - mean) / std

    def represent(self, network: Network, x: Tensor) -> Tensor:
        """The network's embedding."""
        return network.embed(x)

    def corrupt(self, x: Tensor) -> Tensor:
        """Resized crop (.6 to 1), flip, colour jitter, blur and grey, as AMP's T; one draw per 16 images."""
        mean, std = self._channels(x)
        corruption = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.side, scale=(0.6, 1.0), antialias=True),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomApply([transforms.GaussianBlur(3, (0.1, 2.0))], p=0.5),
                transforms.RandomGrayscale(0.2),
            ]
        )
        pixels = (x * std + mean).clamp(0.0, 1.0)
        shown = torch.cat([corruption(group) for group in torch.split(pixels, CORRUPTION_GROUP)])
        return (shown - mean) / std

    def _channels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, shaped for `[B, 3, S, S]`."""
        mean, std = torch.tensor([self.mean, self.std], device=x.device).view(2, 3, 1, 1)
        return mean, std
