"""Let timm and torchvision import where torchvision's compiled operators cannot load.

torchvision's wheel on PyPI is a CUDA build. Beside a CPU torch its operators fail to load, and its import then stops
at the missing schema of `nms`. Only its transforms are needed, by timm and by us: declaring the schemas is enough.
Import both from here: `from oodguard.training.backbone.timm_loader import timm, transforms`.
"""

from __future__ import annotations

import importlib.metadata

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _declare() -> torch.library.Library | None:
    if "cu" in importlib.metadata.version("torch") or torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        name = schema.split("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    return library


# The schemas live as long as this object does.
_LIBRARY = _declare()

import timm  # noqa: E402  (after the schemas)
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = ["timm", "transforms"]
