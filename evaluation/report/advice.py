"""What to do about a weakness, from the run's own numbers: which photos are missing, and what another target costs."""

from __future__ import annotations

from statistics import median

from oodguard.evaluation.evaluation import DetectionTable, Evaluation
from oodguard.evaluation.operating import OperatingPoint
from oodguard.pages.text import count, percent

NAMED = 6
# Below this a guard flags so many known images that nobody chooses it to keep strangers out.
LEAST_ACCEPT = 0.8


def photos_of(found: Evaluation, name: str) -> str:
    """`45 photos to train on`; empty where the evaluation does not know."""
    if name not in found.class_photos:
        return ""
    return f"{count(found.class_photos[name], 'photo')} to train on"


def collect(found: Evaluation, classes: list[str]) -> str:
    """Which of some weak classes need photos, and which rather a look at their labels: those with enough of them."""
    if not found.class_photos:
        return "Add photos of these classes, and look for wrong labels among those that they are confused with."
    usual = int(median(found.class_photos.values()))
    few = [name for name in classes if found.class_photos.get(name, 0) < usual]
    enough = [name for name in classes if name not in few]
    parts = []
    if few:
        parts.append(f"Add photos of {_and(few)}: the median class has {usual:,} to train on.")
    if enough:
        parts.append(
            f"Look for wrong labels with oodguard check and add photos like those of the test: {_and(enough)} "
            f"{'has' if len(enough) == 1 else 'have'} as many photos as the others."
        )
    return " ".join(parts)


def taken_for(table: DetectionTable) -> str:
    """What the images that get through are predicted as: `, most of them predicted t-shirt (31) or dress (6)`."""
    if not table.passed_as:
        return ""
    return ", most often predicted " + " or ".join(f"{label} ({images:,})" for label, images in table.passed_as.items())


def keep_out(found: Evaluation, name: str) -> str:
    """What to do about an OOD set of which too many images get through."""
    how = "wrap --outliers" if found.wrapped is not None else "train --outliers"
    add = f"If images like {name} will arrive, add photos of them as a class, or give them to {how}."
    cheaper = [point for point in found.operating_points if LEAST_ACCEPT <= point.accept < found.accept]
    if not cheaper or name not in cheaper[-1].ood_accepted:
        return add
    now = found.operating_points[[point.accept for point in found.operating_points].index(found.accept)]
    # The next target that lets in half of what is let in now, or the lowest.
    half = [p for p in cheaper if p.ood_accepted[name].share <= now.ood_accepted[name].share / 2]
    return f"{add} {_price(half[-1] if half else cheaper[0], now, name)}"


def _price(point: OperatingPoint, now: OperatingPoint, name: str) -> str:
    lost = 100 * (now.id_accepted.share - point.id_accepted.share)
    return (
        f"--accept {point.accept:g} would let in {percent(point.ood_accepted[name].share)} of them and costs "
        f"{lost:.1f} points of the ID images accepted ({percent(point.id_accepted.share)})."
    )


def another_target(found: Evaluation) -> str:
    """The target at which the test images are accepted as often as asked for, and what it lets in."""
    below = found.acceptance_of_fused < found.accept
    others = [
        point
        for point in found.operating_points
        if (point.accept > found.accept and point.id_accepted.share >= found.accept)
        or (point.accept < found.accept and point.id_accepted.share <= found.accept)
        if (point.accept > found.accept) is below
    ]
    if not others:
        return "" if not below else " No target of the table below accepts so many of them."
    point = others[0] if below else others[-1]
    sets = ", ".join(f"{percent(share.share)} of {name}" for name, share in point.ood_accepted.items())
    return f" --accept {point.accept:g} accepts {percent(point.id_accepted.share)} of them" + (
        f", and lets in {sets}." if sets else "."
    )


def _and(names: list[str]) -> str:
    shown = names[:NAMED]
    if len(names) > NAMED:
        return f"{', '.join(shown)} and {len(names) - NAMED} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
