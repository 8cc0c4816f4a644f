from __future__ import annotations

import io

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from oodguard.core.errors import InputError
from oodguard.training.backbone.network import pixel_network
from oodguard.training.backbone.onnx_file import export_onnx
from oodguard.training.backbone.timm_source import create, preprocessing_of


class Windows(nn.Module):
    """Attention within windows: of five axes, as NesT, Twins and Hiera have it, or with windows and heads as images."""

    def __init__(self, *, axes: int, masked: bool) -> None:
        super().__init__()
        self.axes = axes
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 24, 4, 4)
        self.register_buffer("mask", torch.randn(2, 16, 16) if masked else None)

    def forward(self, images: Tensor) -> Tensor:
        # 16 x 16 places of 3 x 2 heads x 4 numbers, as 16 windows of 16 places.
        x = self.layer(images).unflatten(1, (3, 2, 4)).flatten(4).unflatten(4, (16, 16))
        q, k, v = x.permute(1, 0, 4, 2, 5, 3).unbind(0)
        mask = self.mask
        if self.axes == 3:
            mask = None if mask is None else mask.repeat(16 * images.shape[0], 1, 1)
            q, k, v = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
        found: Tensor = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return found.reshape(images.shape[0], 16, 2, 16, 4).mean(3).flatten(1)


@pytest.mark.parametrize("axes", [3, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_within_windows_is_written_and_answers_as_pytorch(axes: int, masked: bool) -> None:
    preprocessing = preprocessing_of(create("resnet18"), 64)
    network = pixel_network(Windows(axes=axes, masked=masked), preprocessing).eval()
    file = io.BytesIO()
    export_onnx(network, preprocessing, file)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels)).numpy()
    for rows in (slice(0, 3), slice(1, 2)):
        (found,) = session.run(["features"], {"images": pixels[rows]})
        np.testing.assert_allclose(found, expected[rows], rtol=1e-4, atol=1e-5)


class Clamped(nn.Module):
    """Clamps one tensor twice, as layers with bounds of their own do: the exporter's optimiser loses one pair."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means.clamp(-1.0, 1.0) + means.clamp(-0.25, 0.5)


def test_bounds_that_the_optimiser_loses_are_in_the_file() -> None:
    preprocessing = preprocessing_of(create("resnet18"), 64)
    network = pixel_network(Clamped(), preprocessing).eval()
    file = io.BytesIO()
    export_onnx(network, preprocessing, file)
    pixels = np.stack([np.full((64, 64, 3), grey, dtype=np.uint8) for grey in (0, 90, 130, 255)])
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels)).numpy()
    (found,) = session.run(["features"], {"images": pixels})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.min() < -1.0
    assert expected.max() > 1.0


class Unwritable(nn.Module):
    """Ends with an operation that ONNX has not."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.mean((2, 3)))


def test_an_operation_that_cannot_be_written_is_one_sentence() -> None:
    preprocessing = preprocessing_of(create("resnet18"), 64)
    with pytest.raises(InputError, match=r"PyTorch cannot write this network as ONNX \(") as caught:
        export_onnx(pixel_network(Unwritable(), preprocessing).eval(), preprocessing, io.BytesIO())
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
