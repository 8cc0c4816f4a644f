"""What is said of a classifier's preprocessing: by flags, by a file of ours or its framework's, by its metadata."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from oodguard.core.errors import InputError
from oodguard.core.frozen import first_fault
from oodguard.core.preprocessing import MAX_SIDE, Byte, Channels, Fit, Interpolation, Triple
from oodguard.training.backbone.timm_config import preprocessing_from
from oodguard.wrapping.hugging_face import is_hugging_face, read_hugging_face

# In an ONNX file's metadata: a preprocessing as JSON, with the names of the manifest's.
METADATA_KEY = "oodguard.preprocessing"
MAX_FILE_BYTES = 1 << 20
# What folders of models hold, in the order in which they are asked.
_FILES = ("preprocessor_config.json", "config.json")
# What a preprocessing says of files, and not of the network.
_DECODING = {"reduced_jpeg", "white"}
Size = tuple[int | None, int | None]


class PreprocessingOptions(BaseModel):
    """What the caller says of a classifier's preprocessing; None: nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Path | None = Field(
        None,
        description="What the classifier was trained with: a TOML file with these names, a Hugging Face "
        "preprocessor_config.json, timm's config.json, or the folder of either.",
    )
    fit: Fit | None = Field(
        None, description="How a picture of another shape meets the input: its middle, all of it squashed, or padded."
    )
    resize: int | None = Field(
        None, ge=8, le=MAX_SIDE, description="Height the picture is fitted to before the middle is cut out, in pixels."
    )
    resize_width: int | None = Field(
        None, ge=8, le=MAX_SIDE, description="Width it is fitted to, where that is not in proportion to the input."
    )
    crop: int | None = Field(
        None, ge=8, le=MAX_SIDE, description="Height of the input (and width), where the file leaves it open."
    )
    width: int | None = Field(None, ge=8, le=MAX_SIDE, description="Width of the input, where it is not square.")
    interpolation: Interpolation | None = Field(None, description="The filter that resizes, as Pillow names it.")
    channels: Channels | None = Field(None, description="The order in which the classifier takes the channels.")
    scale: FiniteFloat | None = Field(None, gt=0, description="What pixels (0 to 255) are divided by first.")
    mean: Triple | None = Field(None, description="What is subtracted then, one number a channel.")
    std: Triple | None = Field(None, description="What is divided by last, one number a channel.")
    fill: tuple[Byte, Byte, Byte] | None = Field(None, description="Colour (R G B) around a padded picture.")

    @property
    def fields(self) -> dict[str, Any]:
        """What is said, by the names of `Preprocessing`."""
        return self.model_dump(exclude={"preprocessing"}, exclude_none=True)


@dataclass(frozen=True)
class Stated:
    """Fields of a `Preprocessing` that somebody stated, where they come from, and what the caller is to know of it."""

    fields: Mapping[str, Any]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


def stated(options: PreprocessingOptions, *, metadata: Mapping[str, str], size: Size = (None, None)) -> Stated:
    """What flags say, then the file they name, then the metadata of the ONNX file.

    `size`: height and width of the classifier's input, as far as they are fixed. Raises `InputError` for what cannot be
    read, followed or made to fit the input.
    """
    found: list[Stated] = [Stated(options.fields, ("the options",))]
    if options.preprocessing is not None:
        found.append(_read(options.preprocessing, size))
    found.append(_of_metadata(metadata))
    fields: dict[str, Any] = {}
    for one in reversed(found):
        fields |= one.fields
    sources = tuple(source for one in found if one.fields for source in one.sources)
    _require_size(fields, size, " and ".join(sources))
    return Stated(fields, sources, tuple(note for one in found for note in one.notes))


def _require_size(fields: Mapping[str, Any], size: Size, sources: str) -> None:
    height, width = fields.get("crop"), fields.get("width") or fields.get("crop")
    for have, want in ((height, size[0]), (width, size[1])):
        if have is not None and want is not None and have != want:
            raise InputError(
                f"the classifier takes {_by(*size)} pixels, and {sources} give {_by(height, width)}; "
                f"give --crop {size[0]} (and --resize) to say what is right"
            )


def _by(height: int | None, width: int | None) -> str:
    return f"{height or '?'} x {width or '?'}"


def _read(path: Path, size: Size) -> Stated:
    """A file, or the first in a folder that says something. Raises `InputError`."""
    if path.is_dir():
        inside = next((path / name for name in _FILES if (path / name).is_file()), None)
        if inside is None:
            raise InputError(
                f"{path} has neither {' nor '.join(_FILES)}; give the file that says how images are prepared"
            )
        path = inside
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} has more than {MAX_FILE_BYTES:,} bytes: it is no preprocessing")
        text = path.read_text(encoding="utf-8")
        said = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid TOML or JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(said, dict):
        raise InputError(f"{path} says nothing of preprocessing: it holds no table of names")
    if path.suffix.lower() == ".toml":
        return _own(said.get("preprocessing", said), path.name)
    if is_hugging_face(said):
        fields, notes = read_hugging_face(said, name=path.name)
        return Stated(fields, (path.name,), notes)
    config = said.get("pretrained_cfg", said)
    if isinstance(config, dict) and ("input_size" in config or "crop_pct" in config):
        return _of_timm(config, path.name, size)
    if "preprocessing" in said or "resize" in said:
        return _own(said.get("preprocessing", said), path.name)
    raise InputError(
        f"{path} says nothing of preprocessing that oodguard knows: give a TOML file, Hugging Face's "
        "preprocessor_config.json or timm's config.json"
    )


def _own(said: object, name: str) -> Stated:
    """A table with the names of the manifest's `preprocessing`."""
    try:
        known = dict(said) if isinstance(said, dict) else {}
        # A manifest's table says these, too; how a file is decoded is not the classifier's matter.
        known = {key: value for key, value in known.items() if key not in _DECODING}
        found = PreprocessingOptions.model_validate({**known, "preprocessing": None})
    except ValidationError as error:
        raise InputError(f"{name} is not a preprocessing: {first_fault(error, whole='the table')}") from None
    if not found.fields:
        raise InputError(
            f"{name} says nothing of preprocessing; its names are those of --fit, --resize, --crop, --mean"
        )
    return Stated(found.fields, (name,))


def _of_timm(config: Mapping[str, Any], name: str, size: Size) -> Stated:
    """timm's configuration, at the classifier's own size: its `crop_pct` is a share."""
    notes: tuple[str, ...] = ()
    given = config.get("input_size") or (3, 224, 224)
    wanted = [3, *(fixed or own for fixed, own in zip(size, given[1:], strict=True))] if len(given) == 3 else given
    if list(given) != list(wanted):
        notes = (
            f"{name} is for {_by(*given[1:])} pixels; its crop_pct is kept at the classifier's {_by(*wanted[1:])}",
        )
    found = preprocessing_from({**config, "input_size": wanted})
    return Stated(found.model_dump(exclude=_DECODING), (name,), notes)


def _of_metadata(metadata: Mapping[str, str]) -> Stated:
    """What an ONNX file's own metadata say: our key, or Ultralytics' of a classifier."""
    if METADATA_KEY in metadata:
        try:
            return _own(json.loads(metadata[METADATA_KEY]), f"the file's {METADATA_KEY}")
        except ValueError:
            raise InputError(
                f"the file's metadata {METADATA_KEY} is not valid JSON; give --preprocessing FILE"
            ) from None
    if metadata.get("author") == "Ultralytics" and metadata.get("task") == "classify":
        # `classify_transforms`: the short side to the input's, the middle, over 255; and nothing else.
        plain = {"fit": "crop", "interpolation": "bilinear", "channels": "rgb", "scale": 255.0}
        fields: dict[str, Any] = {**plain, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        try:
            height, width = json.loads(metadata.get("imgsz", ""))
            fields |= {"resize": int(height), "crop": int(height), "width": None if width == height else int(width)}
        except (ValueError, TypeError):
            pass
        return Stated(fields, ("the file's metadata (Ultralytics)",))
    return Stated({}, ())
