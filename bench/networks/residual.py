"""Small residual networks for 32 x 32 images: WRN-d-k and ResNet-18.

Zagoruyko & Komodakis 2016 (pre-activation blocks, three groups of widths 16k, 32k and 64k, depth d = 6n + 4) and He
et al. 2016 (four groups of two blocks, widths 64 to 512, with the 3 x 3 first convolution that CIFAR is trained with).
The last group is the block that ensemble members may own.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from oodguard.bench.networks.network import Network
from oodguard.core.errors import InputError


class PreActivation(nn.Module):
    """BN, ReLU, 3 x 3, BN, ReLU, 3 x 3, plus the input (projected where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        active = functional.relu(self.norm1(x))
        across = x if self.shortcut is None else self.shortcut(active)
        hidden = functional.relu(self.norm2(self.conv1(active)))
        found: Tensor = across + self.conv2(hidden)
        return found


class PostActivation(nn.Module):
    """3 x 3, BN, ReLU, 3 x 3, BN, plus the input, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity() if same else project

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        hidden = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(self.shortcut(x) + hidden)


def wide_resnet(depth: int, widen: int, *, classes: int) -> Network:
    """WRN-`depth`-`widen`. Raises `InputError` when the depth is not 6n + 4."""
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"a wide ResNet's depth is 6n + 4; choose 10, 16, 22, 28, 34 or 40, not {depth}")
    blocks = (depth - 4) // 6
    widths = (16, 16 * widen, 32 * widen, 64 * widen)
    groups = [
        nn.Sequential(
            *(
                PreActivation(
                    widths[g] if block == 0 else widths[g + 1], widths[g + 1], 2 if block == 0 and g > 0 else 1
                )
                for block in range(blocks)
            )
        )
        for g in range(3)
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), *groups[:2])
    last = nn.Sequential(groups[2], nn.BatchNorm2d(widths[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return _initialised(Network(stem, last, width=widths[3], classes=classes))


def resnet18(*, classes: int) -> Network:
    """ResNet-18 for 32 x 32 images."""
    widths = (64, 64, 128, 256, 512)
    groups = [
        nn.Sequential(
            PostActivation(widths[g], widths[g + 1], 1 if g == 0 else 2),
            PostActivation(widths[g + 1], widths[g + 1], 1),
        )
        for g in range(4)
    ]
    first = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    stem = nn.Sequential(first, *groups[:3])
    return _initialised(Network(stem, nn.Sequential(groups[3], nn.AdaptiveAvgPool2d(1)), width=512, classes=classes))


def _initialised(network: Network) -> Network:
    """He initialisation of the convolutions, for their outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(network.head.bias)
    return network
