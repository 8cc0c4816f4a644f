"""A timm model's checkpoint with the classifier that it was trained with, as an ONNX file."""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_source import require_model

# Where training scripts keep weights in a checkpoint, the averaged ones first, as timm takes them.
PLACES = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "module", "net")
# What wrappers put in front of names.
PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.", "net.")
# What training scripts save beside weights; nothing else is unpickled.
SAFE = (argparse.Namespace,)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a checkpoint by their own names, and the place in it that they were taken from (None: all of it).

    Raises `InputError`, in one sentence, for what is not a checkpoint, or would run code.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(list(SAFE)):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch and safetensors raise many types on a damaged or unsafe file
        raise InputError(
            f"{path} holds more than tensors, or is damaged; save the state dict alone (torch.save(model.state_dict()))"
        ) from None
    place = None
    if isinstance(state, Mapping):
        place = next((name for name in PLACES if _tensors(state.get(name))), None)
        state = state if place is None else state[place]
    if not _tensors(state):
        raise InputError(f"{path} holds no state dict")
    return _bare(state), place


def _tensors(found: object) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(isinstance(value, Tensor) for value in found.values())


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that all their names have."""
    found = {str(name): value for name, value in state.items() if not str(name).endswith("n_averaged")}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def load_classifier(path: Path, backbone: str) -> tuple[nn.Module, str | None]:
    """The timm model `backbone` with all weights of a checkpoint, its classifier too, and where in it they were.

    Raises `InputError` where they do not fit.
    """
    name = backbone.removeprefix("timm:")
    require_model(name)
    state, place = load_checkpoint(path)
    plain = timm.create_model(name, pretrained=False)
    layers = plain.default_cfg.get("classifier") or ()
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    heads = [state[f"{layer}.weight"] for layer in layers if f"{layer}.weight" in state]
    if not heads:
        wanted = " or ".join(f"{layer}.weight" for layer in layers) or "a classifier"
        raise InputError(
            f"{path} has no classifier of {name} ({wanted}): it is of another model, or was saved without its head, "
            "which oodguard train --weights makes anew"
        )
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=len(heads[0]))
    wanted_state = model.state_dict()
    wrong = [key for key, value in wanted_state.items() if key not in state or state[key].shape != value.shape]
    spare = [key for key in state if key not in wanted_state]
    if wrong or spare:
        what = f"{wrong[0]} is missing or has another shape" if wrong else f"{spare[0]} is not part of that model"
        raise InputError(f"{path} is not a checkpoint of {name}: {what} ({len(wrong) + len(spare)} do not fit)")
    model.load_state_dict(state)
    return model.eval(), place


def module_to_onnx(module: nn.Module, *, height: int, width: int, feature: str | None = None) -> bytes:
    """A module that takes float32 `[B, 3, height, width]` as one ONNX file with the output `logits`.

    feature: the name of the submodule whose output becomes the output `feature`. Raises `InputError` where there
    is none, or PyTorch cannot export the module.
    """
    network = _Named(module, feature).eval()
    names = ["logits", *(["feature"] if feature else [])]
    example = torch.zeros(2, 3, height, width)
    reason = ""
    for dynamo in (True, False):
        buffer = io.BytesIO()
        try:
            _export(network, example, buffer, names, dynamo=dynamo)
        except InputError:
            raise
        except Exception as error:  # the exporters raise many types on a module that they cannot follow
            reason = reason or (str(error).splitlines() or [type(error).__name__])[0]
            continue
        return buffer.getvalue()
    raise InputError(f"PyTorch cannot export the module ({reason[:200]}); export it yourself and wrap the ONNX file")


def _export(network: nn.Module, example: Tensor, target: io.BytesIO, names: list[str], *, dynamo: bool) -> None:
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        # The exporters warn about their own internals; what they wrote is compared with the module.
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=["input"],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
            assert program is not None
            target.write(program.model_proto.SerializeToString())
        else:
            torch.onnx.export(
                network,
                (example,),
                target,  # type: ignore[arg-type]  # a stream is taken and not declared
                dynamo=False,
                input_names=["input"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ("input", *names)},
            )


class _Named(nn.Module):
    """A module that also returns what one of its parts gives."""

    def __init__(self, module: nn.Module, feature: str | None) -> None:
        super().__init__()
        self.module = module
        self.found: list[Tensor] = []
        if feature is not None:
            try:
                part = module.get_submodule(feature)
            except AttributeError:
                close = [name for name, _ in module.named_children()]
                raise InputError(f"the module has no part {feature!r}; its parts are {', '.join(close)}") from None
            part.register_forward_hook(self._keep)
        self.named = feature is not None

    def _keep(self, part: nn.Module, given: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"the part {type(part).__name__} returns no tensor, so it is no feature")
        self.found.append(output.flatten(1) if output.ndim == 4 and output.shape[2:] == (1, 1) else output)

    def forward(self, images: Tensor) -> Any:
        """Logits, and the feature behind them if it was asked for."""
        self.found.clear()
        logits = self.module(images)
        logits = getattr(logits, "logits", logits)  # Hugging Face's models return a record
        return (logits, self.found[-1]) if self.named else logits
