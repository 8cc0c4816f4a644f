from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.cut import Halves, split, split_again
from oodguard.training.backbone.network import pixel_network
from oodguard.training.backbone.onnx_file import export_onnx
from oodguard.training.backbone.pooled import with_feature
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_source import create, preprocessing_of
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.run import load_run

TOY = "oodguard_toy"


def model_of(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    return model


def images(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def own_feature(model: nn.Module, x: Tensor) -> Tensor:
    """The pooled feature as timm's own methods give it."""
    found: Tensor = model.forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator]
    return found


@torch.no_grad()
def by_halves(halves: Halves, x: Tensor) -> Tensor:
    """Each image's feature from its own row of the activations of all."""
    rows = halves.trunk(x)
    return torch.cat([halves.tail(rows[i : i + 1]).flatten(1) for i in range(len(rows))])


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("tf_efficientnet_lite0", "blocks.4"),
        ("resnet18", "layer3"),
        ("vit_tiny_patch16_224", "blocks.10"),
        ("convnext_atto", "stages.2"),
        ("mobilenetv3_small_050", "blocks.3"),
    ],
)
def test_models_that_could_always_be_cut_are_cut_where_they_were(name: str, cut: str) -> None:
    """Cached activations and runs go by the cut."""
    backbone = load_backbone(name, weights="random")
    assert (backbone.cut, backbone.recorded, backbone.whole_because) == (cut, False, None)


@pytest.mark.parametrize(
    ("name", "cut", "numbers"),
    [
        ("mobilevit_xxs", "stages.3", (64, 16, 16)),
        ("efficientvit_b0", "stages.2", (64, 14, 14)),
        # Two values cross: the maps and the class token.
        ("pit_ti_224", "transformers.1", (25_216,)),
        # Four resolutions cross.
        ("hrnet_w18_small", "stage3", (87_808,)),
        # The tokens of pixels have 196 rows for each image.
        ("tnt_s_legacy_patch16_224", "blocks.10", (196 * 16 * 24 + 197 * 384,)),
        # timm lists levels of a name that no module has; its layer groups say where the last one begins.
        ("mvitv2_tiny", "stages.2", (196, 384)),
    ],
)
def test_what_cannot_be_traced_is_cut_as_recorded(name: str, cut: str, numbers: tuple[int, ...]) -> None:
    model = model_of(name)
    size = preprocessing_of(model).size
    halves = split(model, size, tune=True)
    assert (halves.cut, halves.recorded, halves.whole_because) == (cut, True, None)
    x = images(3, size)
    torch.testing.assert_close(by_halves(halves, x), own_feature(model, x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert halves.trunk(x).shape == (3, *numbers)
    halves.tail(halves.trunk(x)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in halves.tail.parameters())
    assert all(p.grad is not None or p.requires_grad for p in halves.trunk.parameters())
    again = split_again(model_of(name), size, cut=halves.cut, recorded=True)
    assert [list(part.state_dict()) for part in again] == [list(p.state_dict()) for p in (halves.trunk, halves.tail)]


def test_windowed_attention_answers_alone_as_in_a_batch_from_both_halves_in_one_graph() -> None:
    preprocessing = preprocessing_of(create("resnet18"), 64)
    model = model_of(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=12,
        depths=(1, 1, 2, 1),
        num_heads=(1,) * 4,
    )
    halves = split(model, (64, 64), tune=True)
    assert halves.cut == "layers.2"
    graph = io.BytesIO()
    export_onnx(pixel_network(nn.Sequential(halves.trunk, halves.tail), preprocessing).eval(), preprocessing, graph)
    session = ort.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    (together,) = session.run(None, {"images": pixels})
    alone = np.concatenate([session.run(None, {"images": pixels[i : i + 1]})[0] for i in range(5)])
    with torch.no_grad():
        expected = pixel_network(model, preprocessing)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)


class Net(nn.Module):
    """A network in which both levels use one weight, or whose way depends on what it sees."""

    def __init__(self, *, looks: bool = False, groups: bool = True) -> None:
        super().__init__()
        self.looks = looks
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)
        self.tied = nn.Parameter(torch.ones(1))
        self.num_features = 8
        if groups:
            self.feature_info = [{"module": "first"}, {"module": "second"}]

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x.mean((2, 3)) * self.tied)
        if self.looks and float(found.sum()) > 0:
            found = found * 2
        out: Tensor = self.second(found) * self.tied
        return out


def test_a_weight_that_both_halves_use_stays_in_the_frozen_one() -> None:
    net = Net().eval()
    halves = split(net, (4, 4), tune=True)
    x = images(2, (4, 4))
    before = halves.trunk(x)
    with torch.no_grad():
        for parameter in halves.tail.parameters():
            parameter.mul_(3.0)
    torch.testing.assert_close(halves.trunk(x), before)
    torch.testing.assert_close(net.tied, torch.ones(1))


@pytest.mark.parametrize(
    ("net", "reason"),
    [(Net(groups=False), "lists no feature levels"), (Net(looks=True), "data-dependent")],
)
def test_a_model_that_cannot_be_cut_is_a_trunk_as_a_whole(net: nn.Module, reason: str) -> None:
    halves = split(net.eval(), (4, 4), tune=True)
    assert halves.cut is None
    assert isinstance(halves.tail, nn.Identity)
    assert halves.trunk is net
    assert halves.whole_because is not None
    assert reason in halves.whole_because
    assert "\n" not in halves.whole_because
    assert split(net, (4, 4), tune=False).whole_because is None


class Maps(nn.Module):
    """A network that gives maps, channels first or last."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last, self.num_features = last, 5
        self.layer = nn.Conv2d(3, 5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found.permute(0, 2, 3, 1) if self.last else found


@pytest.mark.parametrize("last", [False, True])
def test_maps_are_averaged_over_their_places(last: bool) -> None:
    net = Maps(last=last).eval()
    pooled, width = with_feature(net, (8, 8))
    x = images(2, (8, 8))
    assert width == 5
    torch.testing.assert_close(pooled(x), net.layer(x).mean((2, 3)))


def test_a_size_that_a_model_does_not_take_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not take images of 64 x 64 pixels") as caught:
        with_feature(model_of("vit_tiny_patch16_224"), (64, 64))
    assert "\n" not in str(caught.value)


@pytest.fixture
def toy() -> Iterator[str]:
    """A model in timm's registry that can be exported and lists no levels to cut it at."""
    module = sys.modules[__name__]
    had = getattr(module, "__all__", None)

    def build(pretrained: bool = False, **_: object) -> nn.Module:
        return Net(groups=False)

    build.__name__ = TOY
    timm.models.register_model(build)
    yield TOY
    registry = sys.modules["timm.models._registry"]
    for names in (registry._model_entrypoints, registry._model_to_module):
        names.pop(TOY, None)
    for members in registry._module_to_models.values():
        members.discard(TOY)
    if had is None and hasattr(module, "__all__"):
        del module.__all__


class Told:
    """Keeps the lines that training tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        pass


def test_training_says_in_a_line_that_a_backbone_stays_frozen(toy: str, options: TrainOptions, tmp_path: Path) -> None:
    told = Told()
    changes = {"backbone": toy, "weights": "random", "views": 0, "epochs": 2, "check_folds": 0, "out_of_fold": 0}
    record = train(options.model_copy(update=changes), tmp_path / "run", report=told)
    (line,) = [line for line in told.lines if toy in line]
    assert line == f"{toy} stays frozen, as with --no-fine-tune: timm lists no feature levels of it"
    assert (record.backbone.cut, record.backbone.width) == (None, 8)
    assert isinstance(load_run(tmp_path / "run").tail, nn.Identity)


def test_another_size_is_built_or_refused_in_a_sentence() -> None:
    backbone = load_backbone("vit_tiny_patch16_224", weights="random", image_size=96)
    assert (backbone.cut, backbone.width, backbone.preprocessing.size) == ("blocks.10", 192, (96, 96))
    with torch.no_grad():
        assert backbone.trunk(images(1, (96, 96))).shape == (1, 37, 192)
    with pytest.raises(
        InputError, match=r"does not take images of 100 x 100 pixels .* leave --image-size out"
    ) as caught:
        load_backbone("levit_128s", weights="random", image_size=100)
    assert "\n" not in str(caught.value)
