"""What the name of a timm model stands for: an architecture with a tag, a folder, or a repository of the hub."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import nn

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.frozen import first_fault
from oodguard.training.backbone.checkpoint import Checkpoint, read_checkpoint
from oodguard.training.backbone.timm_loader import timm

FOLDER, HUB = "local-dir:", "hf-hub:"
CONFIG_FILE = "config.json"
# The names that timm and Hugging Face give weights in a folder, in the order in which timm looks.
WEIGHTS_FILES = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
)
SUFFIXES = (".safetensors", ".pth", ".tar", ".bin")
# What timm's `create_model` takes for itself; a folder's arguments are for the network alone.
NOT_OF_NETWORKS = frozenset(
    (
        *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
        *("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "features_only"),
        *("num_classes", "in_chans"),
    )
)
SHOWN = 8


class _Input(BaseModel):
    """What a folder says of the size that its network was built for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_size: tuple[int, int, int] | None = None
    fixed_input_size: bool = False


class _FolderConfig(_Input):
    """What `config.json` beside weights says of the network; older ones say all of it at the top."""

    architecture: str
    model_args: dict[str, JsonValue] = {}
    pretrained_cfg: _Input | None = None


@dataclass(frozen=True)
class TimmName:
    """A timm model by its name.

    given: what `timm.create_model` takes. architecture: timm's name of the network. arguments: what builds it beside
    that. own: where its own weights lie, a folder or a repository; None: wherever timm has them.
    """

    given: str
    architecture: str
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    own: str | None = None

    def build(self, *, image_size: int | None = None, pretrained: bool = False) -> nn.Module:
        """The network in evaluation mode, without its classifier; `pretrained`: with timm's weights, fetched.

        Raises `InputError` for a size that the network does not take.
        """
        wanted = {**self.arguments, "pretrained": pretrained, "num_classes": 0}
        sized = {} if image_size is None else {"img_size": image_size}
        try:
            model = timm.create_model(self.given, **{**wanted, **sized})
        except TypeError:  # convolutional models take any size and no such argument
            model = timm.create_model(self.given, **wanted)
        except Exception as error:  # windows, strides and patches of some models do not divide some sizes
            if image_size is None or pretrained:
                raise  # what the hub says is worded by who asked it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            size = f"{image_size} x {image_size}"
            raise InputError(
                f"{self.given} cannot be built for {size} pixels ({reason}); leave --image-size out"
            ) from None
        built: nn.Module = model.eval()
        return built

    def whole(self, classes: int | None = None) -> nn.Module:
        """The network with a classifier, of so many classes; None: of as many as its own weights have."""
        counted = {} if classes is None else {"num_classes": classes}
        found: nn.Module = timm.create_model(self.given, pretrained=False, **{**self.arguments, **counted})
        return found.eval()

    def checkpoint(self) -> Checkpoint:
        """The weights in the folder or the repository. Raises `InputError` or `EnvironmentProblem` without them."""
        assert self.own is not None
        if self.given.startswith(FOLDER):
            return read_checkpoint(_weights_in(Path(self.own)))
        try:
            state = timm.models.load_state_dict_from_hf(self.own)
        except Exception as error:  # the hub's client raises many types
            raise _unreachable(self.own, error) from None
        return Checkpoint(Path(self.own), state)


def timm_name(name: str) -> TimmName:
    """What a name stands for.

    Raises `InputError`, with close names or tags, where timm has no such model, or the folder describes none, and
    `EnvironmentProblem` where a repository is neither in Hugging Face's cache nor within reach.
    """
    if name.startswith(FOLDER):
        return _of_folder(name)
    if name.startswith((HUB, "hf_hub:")):
        return _of_hub(name.partition(":")[2])
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.6)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise InputError(f"timm has no model named {name!r}{hint}")
    tags = [known.partition(".")[2] for known in timm.models.get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        named = sorted(filter(None, tags), key=lambda known: -difflib.SequenceMatcher(None, tag, known).ratio())
        more = ", ..." if len(named) > SHOWN else ""
        hint = f"its tags are {', '.join(named[:SHOWN])}{more}" if named else "it has none"
        raise InputError(f"timm has no weights {tag!r} of {architecture}; {hint}")
    return TimmName(given=name, architecture=name)


def _of_folder(name: str) -> TimmName:
    folder = Path(name.removeprefix(FOLDER))
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG_FILE}; name a folder that timm's save_for_hf wrote")
    try:
        config = _FolderConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} describes no timm model: {first_fault(error, whole='it')}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return TimmName(
        given=name,
        architecture=timm_name(config.architecture).architecture,
        arguments=_of_networks(config.model_args, config.pretrained_cfg or config),
        own=str(folder),
    )


def _of_hub(repository: str) -> TimmName:
    try:
        config, architecture, arguments = timm.models.load_model_config_from_hf(repository)
    except (KeyError, ValueError):
        raise InputError(f"{HUB}{repository} holds no timm model: its {CONFIG_FILE} names no architecture") from None
    except Exception as error:  # the hub's client raises many types
        raise _unreachable(repository, error) from None
    return TimmName(
        given=HUB + repository,
        architecture=timm_name(architecture).architecture,
        arguments=_of_networks(arguments, _Input.model_validate(config)),
        own=repository,
    )


def _of_networks(arguments: Mapping[str, JsonValue], wanted: _Input) -> dict[str, JsonValue]:
    """What builds the network again where the folder is gone."""
    sized: dict[str, JsonValue] = {}
    if wanted.fixed_input_size and wanted.input_size is not None:
        sized = {"img_size": list(wanted.input_size[1:])}
    return {**sized, **{name: value for name, value in arguments.items() if name not in NOT_OF_NETWORKS}}


def _unreachable(repository: str, error: Exception) -> EnvironmentProblem:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return EnvironmentProblem(
        f"{HUB}{repository} is not in Hugging Face's cache and cannot be fetched ({reason.rstrip('.')}); fetch it "
        f"where there is a network, or give a folder that holds it as {FOLDER}FOLDER"
    )


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder. Raises `InputError` where there is none, or nothing says which one."""
    known = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if known is not None:
        return known
    for suffix in SUFFIXES:
        found = sorted(path for path in folder.iterdir() if path.suffix == suffix)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{folder} holds several weights ({names}); say which with --weights")
        if found:
            return found[0]
    raise InputError(f"{folder} holds no weights; put them there as {WEIGHTS_FILES[0]}, or give --weights FILE")
