"""The check of photos as one HTML page: what to do, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping

from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import open_image
from oodguard.pages.page import (
    Beside,
    Block,
    Card,
    CodeBlock,
    Fact,
    Facts,
    Finding,
    Findings,
    Gallery,
    Page,
    Prose,
    Section,
    Table,
    render,
)
from oodguard.pages.text import count
from oodguard.pages.thumbnail import thumbnail
from oodguard.training.backbone.features import TRAINING_LIMITS
from oodguard.training.photos.check import PhotoCheck
from oodguard.training.photos.kinds import Kind
from oodguard.training.photos.labelled import MIN_PER_CLASS, Photo
from oodguard.training.photos.suspects import Suspect

# Pictures of one kind on the page; the list has all of them.
MOST = 200
# So many times more photos in the largest class than in the smallest are worth a word.
UNEVEN = 5.0

HEADS = {
    Kind.LABEL: "suspect labels",
    Kind.COPY_ACROSS: "in several classes",
    Kind.COPY: "copies",
    Kind.NEAR_COPY: "near-copies",
    Kind.UNREADABLE: "unreadable",
}

SECTIONS: Mapping[str, tuple[tuple[Kind, ...], str]] = {
    "Labels that look wrong": (
        (Kind.LABEL,),
        "The most suspect first. Beside each: the nearest photo of the class that it looks like, or its copy. Below a "
        "score of 0.9 about half are right: a hard photo of its class is worth keeping.",
    ),
    "One picture in several classes": (
        (Kind.COPY_ACROSS,),
        "One label of each is wrong. Where it is not clear which, both are here.",
    ),
    "Copies in a class": (
        (Kind.COPY, Kind.NEAR_COPY),
        "Each is a copy of the photo beside it, which is not on the list.",
    ),
    "Odd photos": (
        (Kind.BLANK, Kind.SIZE, Kind.SHAPE, Kind.DARK, Kind.BRIGHT, Kind.BLURRED),
        "Far outside of what most of these photos are. Keep them if such photos will arrive in production.",
    ),
}


def photo_page(found: PhotoCheck, *, title: str, commands: str) -> str:
    """The page of a check, as HTML. commands: what to type next.

    ```python
    Path("check.html").write_text(photo_page(check_photos(options), title="photos", commands=""), encoding="utf-8")
    ```
    """
    sections = [Section("Classes", (_classes(found),))]
    by_name = {found.photos.name(photo): photo for photo in (*found.photos.pool, *found.photos.test)}
    for heading, (kinds, note) in SECTIONS.items():
        suspects = found.of(*kinds)
        if suspects:
            sections.append(Section(heading, (_gallery(found, suspects, by_name, note),)))
    for heading, kind, note in (
        ("Files that cannot be read", Kind.UNREADABLE, "Training skips them and names them."),
        (
            "Files that training passes over",
            Kind.PASSED_OVER,
            "No photos by their content, hidden, of a kind that is not read, or in no class folder.",
        ),
    ):
        if rows := found.of(kind):
            sections.append(Section(heading, (_files(rows, heading, note),)))
    photos = sum(found.counts.values())
    return render(
        Page(
            title=f"Check of {title}",
            subtitle=f"{count(photos, 'photo')} in {count(len(found.counts), 'class')}",
            first=(_facts(found), Findings(findings(found)), Prose("What to do next:"), CodeBlock(commands)),
            sections=tuple(sections),
            footer="This page is one file and loads nothing else. Nothing was changed or removed.",
        )
    )


def findings(found: PhotoCheck) -> tuple[Finding, ...]:
    """What the check says, one sentence each with what to do."""
    lines = [*_about_counts(found), *_about_suspects(found), *_about_files(found)]
    if found.grey_levels is not None:
        lines.insert(0, Finding("weak", f"{found.grey_levels.sentence}."))
    return tuple(lines) or (Finding("good", "Nothing stands out: no copies, no unreadable files, no suspect labels."),)


def _about_counts(found: PhotoCheck) -> list[Finding]:
    lines = [Finding("weak", f"{found.shortage}.")] if found.shortage else []
    if found.small:
        names = ", ".join(found.small[:6])
        lines.append(
            Finding("weak", f"Too few photos to train on in {names}: add some until each has {MIN_PER_CLASS} at least.")
        )
    if found.imbalance >= UNEVEN:
        least = min(found.counts, key=lambda label: found.counts[label])
        most = max(found.counts, key=lambda label: found.counts[label])
        lines.append(
            Finding(
                "weak",
                f"{most} has {found.imbalance:.1f} times as many photos as {least} "
                f"({found.counts[most]:,} and {found.counts[least]:,}): add photos of {least}.",
            )
        )
    return lines


def _about_suspects(found: PhotoCheck) -> list[Finding]:
    lines = []
    if labels := found.waiting(Kind.LABEL):
        verb = "looks" if len(labels) == 1 else "look"
        lines.append(
            Finding("weak", f"{count(len(labels), 'label')} {verb} wrong: look at them, the most suspect first.")
        )
    elif not found.asked_labels:
        lines.append(
            Finding("note", "Labels were not compared: every class needs two photos that are no copies of each other.")
        )
    if across := found.waiting(Kind.COPY_ACROSS):
        pictures = len({frozenset((one.path, found.photos.name(found.beside[one.path, one.kind]))) for one in across})
        verb = "is" if pictures == 1 else "are"
        lines.append(
            Finding("weak", f"{count(pictures, 'picture')} {verb} in several classes: keep each in one of them.")
        )
    if copies := found.waiting(Kind.COPY, Kind.NEAR_COPY):
        same, near = len(found.waiting(Kind.COPY)), len(found.waiting(Kind.NEAR_COPY))
        verb = "is a copy" if len(copies) == 1 else "are copies"
        lines.append(
            Finding(
                "weak",
                f"{count(len(copies), 'photo')} {verb} of others in the same class ({same:,} the same file, {near:,} "
                "encoded, sized or turned anew): one of each is enough.",
            )
        )
    if odd := found.waiting(*SECTIONS["Odd photos"][0]):
        verb, whose = ("stands", "its") if len(odd) == 1 else ("stand", "their")
        lines.append(Finding("note", f"{count(len(odd), 'photo')} {verb} out by {whose} light, sharpness or size."))
    return lines


def _about_files(found: PhotoCheck) -> list[Finding]:
    lines = []
    if unreadable := found.waiting(Kind.UNREADABLE):
        lines.append(
            Finding("weak", f"{count(len(unreadable), 'file')} cannot be read: fetch them again or remove them.")
        )
    for image, what in ((True, "photo"), (False, "other file")):
        if files := [file for file in found.passed if file.image is image]:
            verb = "is" if len(files) == 1 else "are"
            text = f"{count(len(files), what)} {verb} passed over by training, the first: {files[0].name}"
            lines.append(Finding("weak" if image else "note", f"{text} ({files[0].reason})."))
    return lines


def _facts(found: PhotoCheck) -> Block:
    sizes = sorted(found.counts.values())
    return Facts(
        (
            Fact(name="Photos", value=f"{sum(sizes):,}", detail=f"in {count(len(sizes), 'class')}"),
            Fact(
                name="Photos in a class",
                value=f"{sizes[0]:,} to {sizes[-1]:,}",
                detail=f"the largest has {found.imbalance:.1f} times the smallest",
            ),
            Fact(name="Suspect labels", value=f"{len(found.of(Kind.LABEL)):,}"),
            Fact(name="Copies", value=f"{len(found.of(Kind.COPY, Kind.NEAR_COPY, Kind.COPY_ACROSS)):,}"),
            Fact(name="Unreadable files", value=f"{len(found.of(Kind.UNREADABLE)):,}"),
            Fact(name="Files passed over", value=f"{len(found.passed):,}"),
        )
    )


def _classes(found: PhotoCheck) -> Table:
    kinds = tuple(HEADS)
    total = max(sum(found.counts.values()), 1)
    rows = [
        (
            label,
            f"{number:,}",
            f"{100 * number / total:.1f}",
            *(f"{sum(one.label == label for one in found.of(kind)):,}" for kind in kinds),
        )
        for label, number in sorted(found.counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table(
        caption="Readable photos of each class",
        head=("class", "photos", "share, %", *HEADS.values()),
        rows=tuple(rows),
    )


def _gallery(found: PhotoCheck, suspects: tuple[Suspect, ...], by_name: Mapping[str, Photo], note: str) -> Gallery:
    shown = suspects[:MOST]
    left = len(suspects) - len(shown)
    return Gallery(
        caption=count(len(suspects), "photo") + (f", the first {MOST} of them" if left else ""),
        cards=tuple(_card(found, one, by_name) for one in shown),
        note=note + (f" The list has {left:,} more." if left else ""),
    )


def _card(found: PhotoCheck, one: Suspect, by_name: Mapping[str, Photo]) -> Card:
    other = found.beside.get((one.path, one.kind))
    beside: tuple[Beside, ...] = ()
    if other is not None:
        beside = (Beside(image=_picture(other), caption=f"{other.label}: {found.photos.name(other)}"),)
    labels = one.kind in (Kind.LABEL, Kind.COPY_ACROSS)
    return Card(
        image=_picture(by_name[one.path]),
        alt=f"{one.path}: {one.reason}",
        title=f"{one.label}, or {one.suggested}?" if one.suggested else one.label,
        lines=(
            f"{one.kind} {one.rank}" + (f", score {one.score:.2f}" if labels else ""),
            one.reason,
            one.path,
        ),
        mark="kept" if one.keep else "",
        beside=beside,
    )


def _picture(photo: Photo) -> str | None:
    try:
        return thumbnail(open_image(photo.path.read_bytes(), TRAINING_LIMITS))
    except (ImageError, OSError):
        return None


def _files(suspects: tuple[Suspect, ...], caption: str, note: str) -> Table:
    return Table(
        caption=caption,
        head=("file", "what it is"),
        rows=tuple((one.path, one.reason) for one in suspects),
        words=frozenset({1}),
        note=note,
    )
