"""The most and least divergent images, as thumbnails."""

from __future__ import annotations

from pathlib import PurePath

from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import open_image
from oodguard.evaluation.evidence import FUSED, Evidence, MeasuredSet
from oodguard.evaluation.extremes import ID, Extreme, Extremes
from oodguard.pages.page import Card, Gallery
from oodguard.pages.text import percent
from oodguard.pages.thumbnail import thumbnail
from oodguard.training.backbone.features import TRAINING_LIMITS


def gallery(found: Extremes, evidence: Evidence) -> Gallery:
    """The images of one end of one score."""
    measured = evidence.test if found.set == ID else evidence.ood[found.set]
    strange = "most" if found.highest else "least"
    score = "the fused score" if found.score == FUSED else "PDS"
    wrong = sum(_is_wrong(found, image) for image in found.images)
    expected = "are flagged, although they are ID" if found.set == ID else "get through, although they are OOD"
    return Gallery(
        caption=f"{found.set}: {strange} divergent by {score}",
        cards=tuple(_card(found, image, measured) for image in found.images),
        note=f"{wrong} of these {len(found.images)} {expected}." if wrong else "",
    )


def _card(found: Extremes, image: Extreme, measured: MeasuredSet) -> Card:
    mark = ("wrongly flagged" if found.set == ID else "missed") if _is_wrong(found, image) else ""
    return Card(
        image=_picture(measured, image.row),
        alt=f"{image.label}, predicted {image.predicted}",
        title=image.label,
        lines=(
            f"predicted {image.predicted}, {percent(image.probability, 0)}",
            f"fused score {image.fused:.2f}",
            f"percentile {image.percentile:.1f}",
            f"PDS {image.pds:.4f}",
            PurePath(image.file).name,
        ),
        mark=mark,
    )


def _is_wrong(found: Extremes, image: Extreme) -> bool:
    return image.flagged == (found.set == ID)


def _picture(measured: MeasuredSet, row: int) -> str | None:
    try:
        return thumbnail(open_image(measured.photos[row].path.read_bytes(), TRAINING_LIMITS))
    except (ImageError, OSError):
        return None
