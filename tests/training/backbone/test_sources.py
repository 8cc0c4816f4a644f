"""A backbone that is not timm's goes the whole way: one module and one line in `SOURCES`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oodguard.core.errors import FormatError, InputError
from oodguard.core.manifest import GRAPH_FILE
from oodguard.core.preprocessing import Preprocessing
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import run_graph, session
from oodguard.training.backbone import sources
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.sources import backbone_of, load_backbone, rebuild_backbone
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import BackboneRecord
from oodguard.training.run import load_run


class Tiny:
    """Two convolutions and a mean."""

    def load(self, name: str, *, weights: str, image_size: int | None, tune: bool) -> Backbone:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.ReLU()).eval()
        tail = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        size = image_size or 48
        return Backbone(
            kind="tiny",
            name=name,
            source=weights,
            weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
            cut="0",
            width=32,
            preprocessing=Preprocessing(resize=size, crop=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            trunk=trunk,
            tail=tail,
        )

    def rebuild(self, record: BackboneRecord, preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
        built = self.load(record.name, weights="", image_size=preprocessing.crop, tune=True)
        return built.trunk, built.tail


def test_another_librarys_network_trains_exports_and_answers_alike(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SOURCES", {**sources.SOURCES, "tiny": Tiny()})
    record = train(options.model_copy(update={"backbone": "tiny:net", "image_size": None}), tmp_path / "run")
    assert (record.backbone.kind, record.backbone.name, record.preprocessing.crop) == ("tiny", "net", 48)
    assert record.metrics["test_accuracy"] > 0.6
    manifest = export_bundle(tmp_path / "run", tmp_path / "bundle")
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    found = run_graph(session((tmp_path / "bundle" / GRAPH_FILE).read_bytes()), images)
    probabilities, _ = load_run(tmp_path / "run").predict(images)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-4)
    assert manifest.provenance.backbone == "net"


def test_a_name_of_an_unknown_kind_is_timms_and_a_run_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timm has no model named 'flax:resnet'"):
        load_backbone("flax:resnet")
    assert load_backbone("timm:resnet18", weights="random").name == "resnet18"
    record = BackboneRecord(
        kind="flax", name="resnet", resized=False, source="", weights_sha256="0" * 64, cut=None, width=8
    )
    with pytest.raises(FormatError, match="kind 'flax'; this oodguard knows timm"):
        rebuild_backbone(record, Preprocessing(resize=64, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), tmp_path)


def test_random_weights_follow_from_the_seed_alone() -> None:
    """Whoever asks for the backbone of a run gets that backbone, whatever was drawn before."""
    options = TrainOptions(data=Path(), backbone="resnet18", weights="random", seed=3)
    before = torch.get_rng_state()
    first = backbone_of(options).weights_sha256
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert backbone_of(options).weights_sha256 == first
    assert backbone_of(options.model_copy(update={"seed": 4})).weights_sha256 != first
