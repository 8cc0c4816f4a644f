"""The fused network: shared backbone, all heads with their linear parts folded, every score, in one graph.

Everything linear that follows the standardised feature is one matrix product: the first layers of M members, of the
anchored head and of ICE, and the certified head where there is one, `[D, M*H + H + d_ice + C]`. Feature density works
on the normalised feature and stays as it was trained (`Density`). Folded at export:

* standardisation (x - centre)/scale, into weights and biases;
* the anchors' part of the anchored head, (W_c - W_r) c_k + b, into K constant rows (AMP);
* ICE's triangular solve, into W = L^-1: h = -||W z - W m_i||^2.

Scores are computed by `GuardHeads.score`, the same function training evaluates with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from oodguard.training.backbone.network import Normalised
from oodguard.training.heads.scores import squared_distances
from oodguard.training.run import Run


class FusedGuard(nn.Module):
    """uint8 `images [B, H, W, 3]` to what `FusedHeads` makes of their features."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.network = Normalised(nn.Sequential(run.trunk, run.tail), run.record.preprocessing)
        self.heads = FusedHeads(run)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass: backbone once, heads side by side."""
        probabilities, scores, neighbours, distances = self.heads(self.network(images).flatten(1))
        return probabilities, scores, neighbours, distances


class AppendedHeads(nn.Module):
    """The heads of a wrapped classifier, from its `feature [B, D]` and `logits [B, C]`: scores, neighbours, distances.

    Its probabilities are its own.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.heads = FusedHeads(run)

    def forward(self, feature: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One pass over all heads, side by side."""
        _, scores, neighbours, distances = self.heads(feature, logits)
        return scores, neighbours, distances


class FusedHeads(nn.Module):
    """Features `[B, D]` to `probabilities [B, C]`, `scores [B, S]`, `neighbours [B, K]` and `distances [B, K]`.

    Neighbours are rows of the bank, nearest first (`Density.nearest`). Scores of a wrapped classifier's own logits
    need those, too.
    """

    centre: Tensor | None
    wide: Tensor
    bias: Tensor
    w2: Tensor
    b2: Tensor
    anchor_rows: Tensor
    anchored_w2: Tensor
    anchored_b2: Tensor
    ice_centres: Tensor

    @torch.no_grad()
    def __init__(self, run: Run) -> None:
        super().__init__()
        heads = run.heads
        self.score = heads.score
        shapes = heads.shapes
        self.members, self.hidden = shapes.members, shapes.hidden
        self.anchors = shapes.anchors
        w1, b1, w2, b2 = heads.ensemble.stacked()
        anchored = heads.anchored
        white = torch.linalg.inv(heads.ice.factor().double()).float()
        projection = heads.ice.projection @ white.T
        products = [w1.permute(1, 0, 2).flatten(1), anchored.weight_residual, projection]
        offsets = [b1.flatten(), torch.zeros(shapes.hidden), torch.zeros(projection.shape[1])]
        if heads.linear is not None:
            products.append(heads.linear.weight.T)
            offsets.append(heads.linear.bias)
        wide, bias = torch.cat(products, dim=1), torch.cat(offsets)
        # Standardisation: (x - c)/s W + b = (x - c) (W/s) + b = x (W/s) + (b - c W/s).
        wide = wide / heads.scale
        # A foreign feature may lie far from 0, where the difference of two products has no digits left.
        self.register_buffer("centre", heads.centre.clone() if shapes.own_classes else None)
        if not shapes.own_classes:
            bias = bias - heads.centre @ wide
        self.density = heads.density
        self.register_buffer("wide", wide.clone())
        self.register_buffer("bias", bias.clone())
        self.register_buffer("w2", w2.clone())
        self.register_buffer("b2", b2.clone())
        constant = anchored.anchors @ (anchored.weight_anchor - anchored.weight_residual) + anchored.bias1
        self.register_buffer("anchor_rows", constant.unsqueeze(0).clone())
        self.register_buffer("anchored_w2", anchored.weight2.clone())
        self.register_buffer("anchored_b2", anchored.bias2.clone())
        self.register_buffer("ice_centres", heads.ice.centres @ white.T)
        self.sizes = [product.shape[1] for product in products]

    def forward(self, features: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All heads on one feature; `own`: the logits `[B, C]` of a wrapped classifier."""
        centred = features if self.centre is None else features - self.centre
        first = centred @ self.wide + self.bias
        members, residual_part, z, *others = torch.split(first, self.sizes, dim=1)
        hidden = functional.relu(members).view(-1, self.members, self.hidden).transpose(0, 1)
        logits = torch.baddbmm(self.b2, hidden, self.w2)
        shared = functional.relu(residual_part.unsqueeze(1) + self.anchor_rows)
        anchored = shared @ self.anchored_w2 + self.anchored_b2
        q, residual = self.density.coordinates(features)
        to_bank, to_means = self.density.distances(q, residual)
        heights = -squared_distances(z, self.ice_centres)
        linear = others[0] if others else None
        logits, scores = self.score(logits, anchored, heights, to_bank, to_means, linear=linear, own=own)
        return logits.softmax(-1).mean(0), scores, *self.density.nearest(q, residual, to_bank)
