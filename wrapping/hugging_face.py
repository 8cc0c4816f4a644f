"""Hugging Face's `preprocessor_config.json` as a preprocessing: what its image processors do with each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from oodguard.core.errors import InputError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# From this side on, ConvNeXT's processor squashes in place of cropping.
CONVNEXT_SQUASHES = 384
# Fields that change no pixel of an RGB image that is given alone.
HARMLESS = frozenset(
    {
        "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys",
        "do_convert_rgb", "default_to_square", "return_tensors", "data_format", "input_data_format", "device",
        "disable_grouping", "image_seq_length", "num_channels", "pad_size", "transformers_version", "_name_or_path",
    }
)  # fmt: skip
READ = frozenset(
    {
        "do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor",
        "rescale_offset", "include_top", "do_normalize", "image_mean", "image_std", "do_flip_channel_order",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """The defaults of an image processor, and which way of its own it has."""

    defaults: Mapping[str, Any]
    # Whether a size that is one number is the short side's.
    short: bool = False
    way: str = ""


def _defaults(size: object, resample: int, mean: object, std: object, **more: Any) -> Mapping[str, Any]:
    return {"size": size, "resample": resample, "image_mean": mean, "image_std": std, **more}


_BICUBIC, _BILINEAR = 3, 2
_CROPS: Mapping[str, Any] = {"do_center_crop": True, "crop_size": 224}
_VIT = Processor(_defaults(224, _BILINEAR, HALF, HALF))
PROCESSORS: Mapping[str, Processor] = {
    "ViT": _VIT,
    "DeiT": Processor(_defaults(256, _BICUBIC, HALF, HALF, **_CROPS)),
    "Beit": Processor(_defaults(224, _BICUBIC, HALF, HALF, crop_size=224)),
    "Bit": Processor(_defaults(224, _BICUBIC, CLIP_MEAN, CLIP_STD, **_CROPS), short=True),
    "CLIP": Processor(_defaults(224, _BICUBIC, CLIP_MEAN, CLIP_STD, **_CROPS), short=True),
    "ConvNext": Processor(_defaults(384, _BICUBIC, HALF, HALF, crop_pct=224 / 256), short=True, way="convnext"),
    "EfficientNet": Processor(
        _defaults(346, _BICUBIC, HALF, HALF, crop_size=289, include_top=True), way="efficientnet"
    ),
    "Levit": Processor(_defaults(224, _BICUBIC, IMAGENET_MEAN, IMAGENET_STD, **_CROPS), short=True, way="levit"),
    "MobileNetV1": Processor(_defaults(256, _BILINEAR, HALF, HALF, **_CROPS), short=True),
    "MobileNetV2": Processor(_defaults(256, _BILINEAR, HALF, HALF, **_CROPS), short=True),
    "MobileViT": Processor(
        _defaults(224, _BICUBIC, None, None, do_center_crop=True, crop_size=256, do_normalize=False,
                  do_flip_channel_order=True),
        short=True,
    ),
    "Perceiver": Processor(
        _defaults(224, _BICUBIC, IMAGENET_MEAN, IMAGENET_STD, do_center_crop=True, crop_size=256), way="perceiver"
    ),
    "PoolFormer": Processor(
        _defaults(224, _BICUBIC, IMAGENET_MEAN, IMAGENET_STD, crop_pct=0.9, **_CROPS), short=True, way="poolformer"
    ),
    "Pvt": Processor(_defaults(224, _BICUBIC, IMAGENET_MEAN, IMAGENET_STD)),
    "Segformer": Processor(_defaults(512, _BILINEAR, IMAGENET_MEAN, IMAGENET_STD)),
    "Siglip": Processor(_defaults(224, _BICUBIC, HALF, HALF)),
}  # fmt: skip


def is_hugging_face(said: Mapping[str, Any]) -> bool:
    """Whether a JSON file is an image processor's."""
    return any(name in said for name in ("image_processor_type", "feature_extractor_type", "image_mean", "do_rescale"))


def read_hugging_face(said: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a `Preprocessing`, and what the caller is to know; `name` is the file's, for errors.

    Raises `InputError` for a processor whose images `Preprocessing` cannot describe.
    """
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    processor = PROCESSORS.get(kind, _VIT)
    notes = []
    if kind not in PROCESSORS:
        which = f"the processor {kind}" if kind else "a processor that it does not name"
        notes.append(f"{name} is for {which}, read as ViT's: compare the accuracy")
    unknown = sorted(key for key, value in said.items() if key not in HARMLESS | READ and value not in (None, False))
    if unknown:
        notes.append(f"{name} also says {', '.join(unknown)}, which oodguard does not follow")
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    full = {**common, **processor.defaults, **{key: value for key, value in said.items() if value is not None}}
    try:
        return {**_fit(full, processor, name), **_values(full, processor)}, tuple(notes)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError):
        raise InputError(f"{name} holds values that an image processor cannot have; give the flags instead") from None


def _values(full: Mapping[str, Any], processor: Processor) -> dict[str, Any]:
    """What is computed with the pixels. A factor becomes a divisor."""
    scale = round(1 / full["rescale_factor"], 6) if full["do_rescale"] else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if full["do_normalize"]:
        mean, std = _three(full["image_mean"]), _three(full["image_std"])
    if processor.way == "efficientnet":
        # Its rescaling may subtract 1, and for classification it divides by std a second time.
        offset = 1.0 if full.get("rescale_offset") and full["do_rescale"] else 0.0
        mean = (mean[0] + offset, mean[1] + offset, mean[2] + offset)
        if full.get("include_top"):
            again = _three(full["image_std"])
            std = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
    return {
        "scale": scale,
        "mean": mean,
        "std": std,
        "channels": "bgr" if full.get("do_flip_channel_order") else "rgb",
    }


def _three(given: Any) -> tuple[float, float, float]:
    values = [float(value) for value in given] if isinstance(given, list | tuple) else [float(given)] * 3
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


def _fit(full: Mapping[str, Any], processor: Processor, name: str) -> dict[str, Any]:
    """How the picture meets the input."""
    if not full["do_resize"]:
        raise InputError(
            f"{name} resizes no image, so that the classifier takes images of one size; give --fit and --crop"
        )
    found: dict[str, Any] = {"interpolation": Image.Resampling(int(full["resample"])).name.lower()}
    size = _size(full["size"], processor)
    crop = _size(full["crop_size"], _VIT) if full.get("do_center_crop") else None
    if processor.way == "poolformer" and full.get("crop_pct") and size.get("height") == size.get("width"):
        # A share to be cut off makes the side of a square a short side.
        size = {"shortest_edge": size.get("height") or size["shortest_edge"]}
    if "shortest_edge" in size:
        side = size["shortest_edge"]
        if processor.way == "convnext":
            cut = side < CONVNEXT_SQUASHES
            whole = int(side / full["crop_pct"]) if cut else side
            return {**found, "fit": "crop" if cut else "squash", "resize": whole, **_sides(side, side)}
        if processor.way == "poolformer":
            side = int(side / full["crop_pct"]) if full.get("crop_pct") else side
        if processor.way == "levit":
            side = int(256 / 224 * side)
        if crop is None:
            return {**found, "fit": "crop", "resize": side, **_sides(side, side)}
        height, width = crop["height"], crop["width"]
        if height != width:
            raise InputError(
                f"{name} cuts {height} x {width} pixels out of a picture whose short side has {side}, which depends on "
                "how it lies; give --fit, --resize, --crop and --width"
            )
        return {**found, "fit": "crop", "resize": side, **_sides(height, width)}
    if "height" not in size or "width" not in size:
        raise InputError(
            f"{name} keeps the size {', '.join(size)}, which gives images of many sizes; give --fit and --crop"
        )
    height, width = size["height"], size["width"]
    if processor.way == "perceiver" and crop is not None:
        return {**found, "fit": "crop", "resize": crop["height"], **_sides(height, width)}
    if crop is None:
        return {**found, "fit": "squash", "resize": height, **_sides(height, width)}
    if round(height * crop["width"] / crop["height"]) != width:
        raise InputError(
            f"{name} cuts {crop['height']} x {crop['width']} out of {height} x {width} pixels, which are of another "
            "shape; give --fit, --resize, --crop and --width"
        )
    return {**found, "fit": "squash", "resize": height, **_sides(crop["height"], crop["width"])}


def _sides(height: int, width: int) -> dict[str, Any]:
    return {"crop": height, "width": None if width == height else width}


def _size(given: Any, processor: Processor) -> dict[str, int]:
    """A size as today's files write it; older ones have a number or a pair."""
    if isinstance(given, dict):
        return {key: int(value) for key, value in given.items() if value is not None}
    if isinstance(given, list | tuple):
        height, width = given
        return {"height": int(height), "width": int(width)}
    return {"shortest_edge": int(given)} if processor.short else {"height": int(given), "width": int(given)}
