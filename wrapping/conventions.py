"""The usual conventions of preprocessing: which of them what was said leaves open, and what each amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from oodguard.core.classifier import InputType
from oodguard.core.errors import InputError
from oodguard.core.frozen import first_fault
from oodguard.core.preprocessing import PLAIN_ONLY, Preprocessing
from oodguard.wrapping.stated import Size, Stated

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
IMAGENET = {"scale": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# What is left of the short side of a picture, where a part of it is cut off.
CROP_SHARE = 0.875
# What torchvision, Keras and most of Hugging Face's processors resize with.
INTERPOLATION = "bilinear"
# What flags or files must say where nothing may be tried.
FLAGS = "--preprocessing FILE, or --fit, --channels, --scale, --mean and --std"


@dataclass(frozen=True)
class Convention:
    """A usual choice of some fields of `Preprocessing`."""

    name: str
    fields: Mapping[str, Any]


def _both(name: str, values: Mapping[str, Any]) -> tuple[Convention, Convention]:
    return (
        Convention(f"RGB, {name}", {"channels": "rgb", **values}),
        Convention(f"BGR, {name}", {"channels": "bgr", **values}),
    )


# The most usual first: where two cannot be told apart, the first is taken.
VALUES = (
    *_both("ImageNet mean and std", IMAGENET),
    *_both("0..1", {"scale": 255.0, "mean": ZERO, "std": ONE}),
    *_both("-1..1", {"scale": 127.5, "mean": ONE, "std": ONE}),
    *_both("0..255", {"scale": 1.0, "mean": ZERO, "std": ONE}),
    Convention(
        "BGR, less Caffe's mean",
        {"channels": "bgr", "scale": 1.0, "mean": (103.939, 116.779, 123.68), "std": ONE},
    ),
)
FITS = (
    Convention(f"crop of {CROP_SHARE}", {"fit": "crop", "resize": 1 / CROP_SHARE}),
    Convention("crop", {"fit": "crop", "resize": 1}),
    Convention("squash", {"fit": "squash", "resize": 1}),
    Convention("pad", {"fit": "pad", "resize": 1}),
)
# The fits with which values are compared: one leaves most of most pictures as they are, the other leaves nothing out.
NEUTRAL = ("crop", "squash")


@dataclass(frozen=True)
class Conventions:
    """What is left open: how pixels become numbers, and how a picture meets the input; with what is known of both."""

    values: tuple[Convention, ...]
    fits: tuple[Convention, ...]
    known: Mapping[str, Any]

    @property
    def decided(self) -> Preprocessing | None:
        """The preprocessing, where nothing is left open."""
        one = len(self.values) == len(self.fits) == 1
        return self.preprocessing(self.values[0], self.fits[0]) if one else None

    @property
    def first_fits(self) -> tuple[Convention, ...]:
        """The fits to compare values with, one after the other until the classifier knows the photos."""
        return tuple(fit for fit in self.fits if fit.name in NEUTRAL) or self.fits[:1]

    def preprocessing(self, values: Convention, fit: Convention) -> Preprocessing:
        """What two of the conventions amount to. Raises `InputError` where that cannot be computed."""
        try:
            return Preprocessing.model_validate({"reduced_jpeg": True, **fit.fields, **values.fields, **self.known})
        except ValidationError as error:
            raise InputError(f"this preprocessing cannot be used: {first_fault(error, whole='it')}") from None


def conventions(said: Stated, *, size: Size, dtype: InputType) -> Conventions:
    """The conventions that `said` leaves open, for a classifier whose input is `size` (height, width; None: any).

    Raises `InputError` where nobody says how large the input is, or what is said does not fit its type.
    """
    fields = dict(said.fields)
    height = size[0] or fields.get("crop")
    width = size[1] or fields.get("width") or fields.get("crop")
    if height is None or width is None:
        raise InputError("the classifier takes images of any size; give --crop, the height of those it was trained on")
    sides = {"crop": height, "width": None if width == height else width}
    values = _values(fields, dtype)
    fits = tuple(Convention(fit.name, {**fit.fields, "resize": round(height * fit.fields["resize"])}) for fit in FITS)
    if "fit" in fields:
        fits = tuple(fit for fit in fits if fit.fields["fit"] == fields["fit"])
    if "resize" in fields:
        fit = fields.get("fit", "crop")
        fits = (Convention(f"{fit}, resized to {fields['resize']}", {"fit": fit, "resize": fields["resize"]}),)
    taken = {"fit", "resize", "crop", "width", "channels", "scale", "mean", "std"}
    rest = {name: value for name, value in fields.items() if name not in taken}
    return Conventions(values, fits, {"interpolation": INTERPOLATION, **rest, **sides})


def _values(fields: Mapping[str, Any], dtype: InputType) -> tuple[Convention, ...]:
    """The ways of turning pixels into numbers that are not ruled out."""
    numbers = {name: fields[name] for name in ("scale", "mean", "std") if name in fields}
    plain: dict[str, Any] = {"scale": 1.0, "mean": ZERO, "std": ONE}
    left: tuple[Convention, ...] = VALUES
    if dtype == "uint8":
        if any(tuple(np.ravel(value)) != tuple(np.ravel(plain[name])) for name, value in numbers.items()):
            raise InputError(PLAIN_ONLY)
        left = _both("as they are", plain)
    elif numbers:
        left = _both("as stated", {"scale": 255.0, "mean": ZERO, "std": ONE, **numbers})
    channels = fields.get("channels")
    return tuple(one for one in left if channels in (None, one.fields["channels"]))


def require_decided(found: Conventions) -> Preprocessing:
    """The preprocessing, where no label says which convention is right. Raises `InputError` that names the flags."""
    decided = found.decided
    if decided is None:
        open_ = [
            f"{len(group)} ways to {what}"
            for group, what in ((found.values, "turn pixels into numbers"), (found.fits, "fit a picture to the input"))
            if len(group) > 1
        ]
        raise InputError(
            f"without labels nothing says which of {' and of '.join(open_)} is the classifier's; give {FLAGS}"
        )
    return decided
