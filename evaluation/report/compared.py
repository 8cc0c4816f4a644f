"""A comparison of two guards as one HTML page, in the style of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import open_image
from oodguard.evaluation.compared import SHOWN, TEST, ChangedPhoto, Compared, change_points
from oodguard.evaluation.paired import PairedShare
from oodguard.pages.page import (
    Block,
    Card,
    Fact,
    Facts,
    Finding,
    Findings,
    Gallery,
    Page,
    Prose,
    Section,
    Table,
    Tone,
    render,
)
from oodguard.pages.text import bracketed, count, percent
from oodguard.pages.thumbnail import thumbnail
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.metrics import Share

NONE = "-"


def to_page(found: Compared) -> str:
    """The page; every number in it is one of `found`, and the photos are read from where they are."""
    return render(
        Page(
            title=f"{found.old.name} version {found.old.version} and {found.new.name} version {found.new.version}",
            subtitle=f"two guards on the same photos, compared {found.created}",
            first=(Facts(_facts(found)), Findings(_findings(found)), _shares(found)),
            sections=tuple(_sections(found)),
            footer="This file is complete: it loads nothing.",
        )
    )


def _facts(found: Compared) -> tuple[Fact, ...]:
    facts = []
    for name, one in (("accuracy", found.accuracy), ("accepted", found.acceptance)):
        if one is not None:
            facts.append(_fact(name, one))
    facts += [_fact(f"let in of {name}", part) for name, part in found.let_in.items()]
    return tuple(facts)


def _fact(name: str, part: PairedShare) -> Fact:
    return Fact(
        name=f"{name}, new guard",
        value=percent(part.after.share),
        detail=f"old {percent(part.before.share)}; {change_points(part)} points",
    )


def _findings(found: Compared) -> tuple[Finding, ...]:
    def tone(part: PairedShare | None, *, higher_is_better: bool) -> Tone:
        if part is None or not part.change.significant:
            return "note"
        return "good" if (part.change.change > 0) == higher_is_better else "weak"

    findings = [Finding(tone(found.accuracy, higher_is_better=True), f"{found.sentence}.")]
    for name, part in found.let_in.items():
        if tone(part, higher_is_better=False) == "weak":
            findings.append(
                Finding(
                    "weak", f"More of {name} is let in, and chance is a poor explanation: look at these photos below."
                )
            )
    if found.added is not None:
        findings.append(_class_finding(found.added.after, "only the new one knows"))
    if found.removed is not None:
        findings.append(_class_finding(found.removed.before, "only the old one knows"))
    if found.unreadable:
        findings.append(
            Finding("note", f"{count(len(found.unreadable), 'file')} could not be read: {found.unreadable[0]}")
        )
    return tuple(findings)


def _class_finding(right: Share, what: str) -> Finding:
    return Finding(
        "note", f"{count(right.of, 'photo')} of classes that {what}: {percent(right.share)} predicted rightly."
    )


def _shares(found: Compared) -> Table:
    rows = [
        (name, part)
        for name, part in (
            ("accuracy", found.accuracy),
            ("accepted", found.acceptance),
            *((f"let in of {name}", part) for name, part in found.let_in.items()),
        )
        if part is not None
    ]
    grouped = (
        f"Near-duplicates count as one: {found.groups:,} groups."
        if found.groups is not None
        else f"Each photo counts for itself: {found.ungrouped}."
    )
    return Table(
        caption="Both guards on the same photos, each at its own threshold, in percent",
        head=("share", "photos", "old", "new", "change, points", "only new", "only old", "p (McNemar)"),
        rows=tuple(
            (
                name,
                f"{part.before.of:,}",
                bracketed(part.before.share, (part.before.low, part.before.high)),
                bracketed(part.after.share, (part.after.low, part.after.high)),
                change_points(part),
                f"{part.change.gained:,}",
                f"{part.change.lost:,}",
                f"{part.change.p:.2g}",
            )
            for name, part in rows
        ),
        note="Only new, only old: photos of which this is true with that guard alone. In brackets: 95 % intervals; "
        "those of the change are paired (Bonett and Price). p: how likely so large a change is if neither guard is "
        f"better, by McNemar's exact test. {grouped}",
    )


def _sections(found: Compared) -> Iterator[Section]:
    yield Section("What changes", tuple(_changes(found)))
    yield Section("Which guards", (_guards(found),))


def _changes(found: Compared) -> Iterator[Block]:
    yield Table(
        caption="Photos of which the new guard says something else, in percent",
        head=("set", "photos", "another prediction", "another verdict"),
        rows=tuple(
            (
                name,
                f"{part.labels.of:,}",
                bracketed(part.labels.share, (part.labels.low, part.labels.high)),
                bracketed(part.verdicts.share, (part.verdicts.low, part.verdicts.high)),
            )
            for name, part in found.changed.items()
        ),
    )
    if not found.photos:
        yield Prose("No photo changes its prediction or its verdict.")
    for name in found.changed:
        photos = [photo for photo in found.photos if photo.set == name]
        if photos:
            more = f"The first {SHOWN} of {len(photos):,}; comparison.json lists all." if len(photos) > SHOWN else ""
            worse = "Those that lost a right prediction come first. " if name == TEST else ""
            yield Gallery(caption=name, cards=tuple(map(_card, photos[:SHOWN])), note=f"{worse}{more}".strip())


def _card(photo: ChangedPhoto) -> Card:
    mark = {1: "now right", -1: "now wrong"}.get(photo.gain, "") if photo.true is not None else ""
    return Card(
        image=_picture(Path(photo.path)),
        alt=f"{photo.old_label} by the old guard, {photo.new_label} by the new one",
        title=photo.true or PurePath(photo.path).name,
        lines=(
            f"old: {photo.old_label}, {percent(photo.old_probability, 0)}{_flag(photo.old_flagged)}",
            f"new: {photo.new_label}, {percent(photo.new_probability, 0)}{_flag(photo.new_flagged)}",
            *((PurePath(photo.path).name,) if photo.true else ()),
        ),
        mark=mark,
    )


def _flag(flagged: bool) -> str:
    return ", flagged" if flagged else ""


def _picture(path: Path) -> str | None:
    try:
        return thumbnail(open_image(path.read_bytes(), TRAINING_LIMITS))
    except (ImageError, OSError):
        return None


def _guards(found: Compared) -> Table:
    sides = (found.old, found.new)
    rows = (
        ("folder", *(side.folder for side in sides)),
        ("kind", *(f"{side.kind}, {side.precision}" for side in sides)),
        ("name and version", *(f"{side.name} {side.version}" for side in sides)),
        ("SHA-256", *(side.sha256[:16] for side in sides)),
        ("target acceptance", *(f"{100 * side.accept:g} %" for side in sides)),
        ("threshold", *(f"{side.threshold:.4g}" for side in sides)),
        ("graph, MB", *(NONE if side.megabytes is None else f"{side.megabytes:.1f}" for side in sides)),
    )
    return Table(caption="Which guards", head=("", "old", "new"), rows=rows, words=frozenset({1, 2}))
