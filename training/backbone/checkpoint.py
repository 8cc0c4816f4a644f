"""A checkpoint as training scripts write it: its tensors, whatever lies around them. Nothing pickled is executed."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from oodguard.core.errors import InputError

# Averaged weights, which are better than the last ones and which timm prefers, too.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
# Where training scripts keep weights in a checkpoint, in the order in which timm looks.
PLACES = (*AVERAGED, "state_dict", "model", "module", "net")
LFS = b"version https://git-lfs"
SAVE_ALONE = "save the state dict alone (torch.save(model.state_dict(), FILE))"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by the names that they have there.

    place: the key under which they were (None: they are all of the file). network: the network that the file says it is
    of, if it says so.
    """

    path: Path
    state: Mapping[str, Tensor]
    place: str | None = None
    network: str | None = None

    @property
    def found(self) -> str | None:
        """Where the weights were, as a line for the reader; None where there was one place to look."""
        if self.place is None:
            return None
        averaged = ", the averaged ones," if self.place in AVERAGED else ""
        return f"weights{averaged} taken from {self.place!r} of {self.path.name}"


class Inert:
    """Stands for an object of any class in a checkpoint: it takes what it is made of, and keeps none of it."""

    def __new__(cls, *_given: object, **_named: object) -> Inert:
        """A new one, whatever the class that it stands for takes."""
        return super().__new__(cls)

    def __init__(self, *_given: object, **_named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class InertMapping:
    """Stands for a mapping of any class, which is filled key by key."""

    def __new__(cls, *_given: object, **_named: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        """An ordinary mapping: PyTorch fills no other."""
        return OrderedDict()


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a checkpoint: a state dict, or what timm, Lightning, fastai and others write around one.

    Averaged weights are preferred. safetensors are known by their content. Raises `InputError`, in one sentence, for
    what is no checkpoint, and for a network that was pickled whole: reading it would run its code.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist" if not path.is_dir() else _is_a_folder(path))
    try:
        content = _content(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or 'it is damaged'})") from None
    if isinstance(content, Inert):
        raise InputError(f"{path} is a whole network, which cannot be read without running its code; {SAVE_ALONE}")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no state dict; {SAVE_ALONE}")
    place = _place(content, path)
    found = content if place is None else content[place]
    state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no state dict; {SAVE_ALONE}")
    named = content.get("arch")
    return Checkpoint(path, state, place, named if isinstance(named, str) else None)


def _is_a_folder(path: Path) -> str:
    return f"{path} is a folder; give the weights file in it, or name the whole folder with --backbone local-dir:{path}"


def _content(path: Path) -> Any:
    """What a file holds, with `Inert` in place of everything but tensors and plain values."""
    with path.open("rb") as stream:
        first = stream.read(len(LFS))
    if first == LFS:
        raise InputError(f"{path} is a pointer of Git LFS and no weights; fetch them with git lfs pull")
    if first[8:9] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError:
            raise InputError(f"{path} is a damaged safetensors file; copy it anew") from None
    zipped = zipfile.is_zipfile(path)
    if zipped and _is_script(path):
        raise InputError(f"{path} is a TorchScript program; {SAVE_ALONE}")
    try:
        return _unpickled(path) if zipped else _loaded(path, [])
    except OSError:
        raise
    except Exception:  # PyTorch raises many types on a damaged or unsafe file, and advises to trust it
        if zipped:
            reason = "is damaged, or would run code when it is read"
        else:
            reason = "is neither a safetensors file nor a checkpoint of PyTorch, or would run code when it is read"
        raise InputError(f"{path} {reason}; {SAVE_ALONE}") from None


def _unpickled(path: Path) -> Any:
    """What a file holds, where PyTorch can list the classes in it; raises as `torch.load` does."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    stands = [type(f"Inert{number}", (Inert,), {}) for number in range(len(names))]
    mappings: set[int] = set()
    while True:
        chosen = [InertMapping if number in mappings else stand for number, stand in enumerate(stands)]
        try:
            return _loaded(path, list(zip(chosen, names, strict=True)))
        except pickle.UnpicklingError as error:
            # Which classes are filled key by key shows only when it is tried.
            refused = re.search(r"Can only SETITEM.*Inert(\d+)'", str(error))
            if refused is None:
                raise
            mappings.add(int(refused[1]))


def _loaded(path: Path, stands: list[Any]) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace, *stands]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _is_script(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _place(content: Mapping[Any, Any], path: Path) -> str | None:
    """The key under which a checkpoint keeps its weights; None: it holds nothing else."""
    places = [str(name) for name, value in content.items() if isinstance(name, str) and _is_state(value)]
    known = next((name for name in PLACES if name in places), None)
    if known is not None or not places:
        return known
    if len(places) > 1:
        raise InputError(f"{path} holds several state dicts ({', '.join(places)}); save the one that you mean alone")
    return places[0]


def _is_state(found: object) -> bool:
    """Whether something is a state dict; what else may lie in one is no tensor."""
    return isinstance(found, Mapping) and any(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    )
