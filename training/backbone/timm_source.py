"""Any timm model by name, with its weights, as a backbone."""

from __future__ import annotations

from torch import nn

from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.cut import split, split_again
from oodguard.training.backbone.network import Backbone, weights_digest
from oodguard.training.backbone.pooled import with_feature
from oodguard.training.backbone.timm_config import preprocessing_from
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_names import TimmName, timm_name
from oodguard.training.backbone.timm_weights import load_weights
from oodguard.training.record import BackboneRecord


def load(name: str, *, weights: str = "auto", image_size: int | None = None, tune: bool = True) -> Backbone:
    """Build a timm model by name, load its weights and cut it in two.

    Raises `InputError` for an unknown model or a file that does not fit, `EnvironmentProblem` when weights cannot be
    reached.
    """
    named = timm_name(name)
    model = named.build(image_size=image_size)
    source, notes = load_weights(model, named, weights, image_size=image_size)
    digest = weights_digest(model)
    preprocessing = preprocessing_of(model, image_size)
    whole, width = with_feature(model, preprocessing.size)
    halves = split(whole, preprocessing.size, tune=tune)
    return Backbone(
        kind="timm",
        name=named.architecture,
        arguments=named.arguments,
        source=source,
        weights_sha256=digest,
        cut=halves.cut,
        width=width,
        preprocessing=preprocessing,
        trunk=halves.trunk,
        tail=halves.tail,
        recorded=halves.recorded,
        whole_because=halves.whole_because,
        notes=notes,
    )


def rebuild(record: BackboneRecord, preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
    """Trunk and tail of a run's network, before its weights are loaded."""
    named = TimmName(given=record.name, architecture=record.name, arguments=record.arguments)
    model = named.build(image_size=preprocessing.crop if record.resized else None)
    whole, _ = with_feature(model, preprocessing.size)
    return split_again(whole, preprocessing.size, cut=record.cut, recorded=record.recorded)


def create(name: str, *, image_size: int | None = None) -> nn.Module:
    """A timm model in evaluation mode, without weights and without its classifier."""
    return timm_name(name).build(image_size=image_size)


def preprocessing_of(model: nn.Module, image_size: int | None = None) -> Preprocessing:
    """The preprocessing a timm model was trained with, at another size where one is asked for."""
    config = timm.data.resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (3, image_size, image_size)
    return preprocessing_from(config)
