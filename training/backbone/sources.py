"""Where backbones come from: THE registry of libraries that build one.

A backbone is named `KIND:NAME`; a name without a kind is timm's. To add a kind, write a module with the functions of
`BackboneSource` and list it in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from oodguard.core.errors import FormatError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone import classifier_trunk, timm_source
from oodguard.training.backbone.network import Backbone
from oodguard.training.options import TrainOptions
from oodguard.training.record import BackboneRecord

DEFAULT = "timm"


class BackboneSource(Protocol):
    """A library that builds backbones."""

    def load(self, name: str, *, weights: str, image_size: int | None, tune: bool) -> Backbone:
        """A backbone with its weights.

        Raises `InputError` for an unknown name or weights that do not fit, `EnvironmentProblem` for weights that cannot
        be reached.
        """

    def rebuild(self, record: BackboneRecord, preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
        """Trunk and tail of a run's network, before the run's weights are loaded."""


SOURCES: Mapping[str, BackboneSource] = {"timm": timm_source}


def load_backbone(name: str, *, weights: str = "auto", image_size: int | None = None, tune: bool = True) -> Backbone:
    """The backbone `name` by the library that its kind names. Raises as `BackboneSource.load` does."""
    kind, _, own_name = name.partition(":")
    if kind not in SOURCES:
        kind, own_name = DEFAULT, name
    return SOURCES[kind].load(own_name, weights=weights, image_size=image_size, tune=tune)


def backbone_of(options: TrainOptions) -> Backbone:
    """The backbone that a run with these options starts from; weights that start at random follow from the seed.

    Raises as `BackboneSource.load` does.
    """
    last = options.fine_tune and options.fine_tune_part == "last"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return load_backbone(options.backbone, weights=options.weights, image_size=options.image_size, tune=last)


def rebuild_backbone(record: BackboneRecord, preprocessing: Preprocessing, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Trunk and tail of the network of the run in `folder`, before its weights are loaded.

    Raises `FormatError` for an unknown kind, and for a wrapped classifier that is missing or another one.
    """
    if record.kind == classifier_trunk.KIND:
        return classifier_trunk.rebuild(folder, sha256=record.weights_sha256), nn.Identity()
    if record.kind not in SOURCES:
        raise FormatError(f"the run's backbone is of kind {record.kind!r}; this oodguard knows {', '.join(SOURCES)}")
    return SOURCES[record.kind].rebuild(record, preprocessing)
