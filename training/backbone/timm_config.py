"""The preprocessing that a timm configuration describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from oodguard.core.errors import InputError
from oodguard.core.frozen import first_fault
from oodguard.core.preprocessing import Fit, Interpolation, Preprocessing, Triple

FITS: Mapping[str, Fit] = {"center": "crop", "squash": "squash", "border": "pad"}


def _three(given: object) -> object:
    """A number for each channel, as timm makes it of a single one."""
    return tuple(given) * 3 if isinstance(given, Sequence) and len(given) == 1 else given


class TimmConfig(BaseModel):
    """What timm's data configurations say of preprocessing, with its defaults; their other fields are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = Field(0.875, gt=0)
    crop_mode: str = "center"
    interpolation: Interpolation = "bicubic"
    mean: Annotated[Triple, BeforeValidator(_three)] = (0.485, 0.456, 0.406)
    std: Annotated[Triple, BeforeValidator(_three)] = (0.229, 0.224, 0.225)


def preprocessing_from(config: Mapping[str, object]) -> Preprocessing:
    """The preprocessing of a data configuration, as `timm.data.create_transform` reads it.

    Raises `InputError` for one that does not describe RGB images.
    """
    try:
        found = TimmConfig.model_validate({name: value for name, value in config.items() if value is not None})
        channels, height, width = found.input_size
        if channels != 3:
            raise InputError(
                f"timm's configuration is for {channels} channels; oodguard guards classifiers of RGB images"
            )
        if found.crop_mode not in FITS:
            raise InputError(f"timm's crop_mode {found.crop_mode!r} is unknown; there are {', '.join(FITS)}")
        fit = FITS[found.crop_mode]
        frame_height, frame_width = (math.floor(side / found.crop_pct) for side in (height, width))
        red, green, blue = (round(255 * value) for value in found.mean)
        return Preprocessing(
            resize=frame_height,
            resize_width=None if frame_width == round(frame_height * width / height) else frame_width,
            crop=height,
            width=None if width == height else width,
            fit=fit,
            fill=(red, green, blue) if fit == "pad" else (0, 0, 0),
            interpolation=found.interpolation,
            reduced_jpeg=True,
            mean=found.mean,
            std=found.std,
        )
    except ValidationError as error:
        raise InputError(f"timm's configuration cannot be used: {first_fault(error, whole='it')}") from None
