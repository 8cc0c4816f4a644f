"""A timm model's checkpoint with the classifier that it was trained with, as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.checkpoint import read_checkpoint
from oodguard.training.backbone.fitting import load_fitting, without_prefix
from oodguard.training.backbone.timm_names import timm_name


def load_classifier(path: Path, backbone: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The timm model `backbone` with all weights of a checkpoint, its classifier too, and lines for the reader.

    Raises `InputError` where they do not fit.
    """
    name = timm_name(backbone.removeprefix("timm:"))
    checkpoint = read_checkpoint(path)
    plain = name.whole()
    config: Any = plain.default_cfg
    layers = config.get("classifier") or ()
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    state = without_prefix(checkpoint, plain.state_dict(), name=name.architecture).state
    heads = [state[f"{layer}.weight"] for layer in layers if f"{layer}.weight" in state]
    if not heads:
        wanted = " or ".join(f"{layer}.weight" for layer in layers) or "a classifier"
        raise InputError(
            f"{path} has no classifier of {name.architecture} ({wanted}): it is of another model, or was saved without "
            "its head, which oodguard train --weights makes anew"
        )
    model = name.whole(len(heads[0]))
    lines = load_fitting(model, checkpoint, name=name.architecture)
    return model, lines


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
