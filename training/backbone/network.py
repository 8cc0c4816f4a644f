"""The network under the heads, as a frozen trunk and a tail, and how pixels enter it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from oodguard.core.preprocessing import Preprocessing
from oodguard.training.heads.rows import Rows


@dataclass(frozen=True)
class Backbone:
    """A feature extractor in two parts: `tail(trunk(x))` is the pooled feature `[B, width]` of `x [B, 3, H, W]`.

    `tail` is what fine-tuning of the last stage changes (an identity when everything is frozen, or everything was
    tuned); `trunk` is all before it. `kind` is the library that builds it, a key of `sources.SOURCES`. rows: what the
    tail gives for an image where that is more than its feature; None: the feature alone. tuned_sha256: the
    `weights_digest` of a trunk that was fine-tuned; None: it has the weights of `weights_sha256`. recorded: how it was
    cut (`cut.Halves`). whole_because: why it is frozen as a whole where its tail was to be tuned; None: it is not.
    """

    kind: str
    name: str
    source: str
    weights_sha256: str
    cut: str | None
    width: int
    preprocessing: Preprocessing
    trunk: nn.Module
    tail: nn.Module
    rows: Rows | None = None
    tuned_sha256: str | None = None
    recorded: bool = False
    whole_because: str | None = None
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def feature(self, rows: Tensor) -> Tensor:
        """The feature `[..., D]` of rows that the tail gave."""
        return rows if self.rows is None else self.rows.feature(rows)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all weights with their names."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class Normalised(nn.Module):
    """uint8 pixels `[B, H, W, 3]` to a network's input: scaled, normalised, channels first; then the network."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.reverses = preprocessing.channels == "bgr"
        # (x / scale - mean) / std as one multiply and one add.
        self.register_buffer("scale", (1.0 / (preprocessing.scale * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, H, W, 3]` uint8 to whatever the network returns."""
        pixels = (images.flip(-1) if self.reverses else images).permute(0, 3, 1, 2).float()
        found: Tensor = self.network(pixels * self.scale + self.shift)
        return found


def pixel_network(trunk: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """From uint8 pixels `[B, H, W, 3]` to what a trunk returns; some trunks take pixels as they are."""
    return trunk if getattr(trunk, "takes_pixels", False) else Normalised(trunk, preprocessing)
