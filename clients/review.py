"""Sampled flagged images as one HTML page for a person to look through."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from oodguard.clients.samples import Sampled, Samples, Unreadable, read_samples
from oodguard.core.bank import NEAREST
from oodguard.core.errors import ImageError, InputError
from oodguard.core.explanation import Explanation
from oodguard.core.images import OWN_FILES
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import open_image
from oodguard.core.thumbnails import Thumbnails
from oodguard.pages.page import Beside, Block, Card, Fact, Facts, Gallery, Page, Prose, Section, Table, render
from oodguard.pages.text import count, percent
from oodguard.pages.thumbnail import thumbnail

DEFAULT_LIMIT = 500
MAX_LABELS = 20


@dataclass(frozen=True)
class Review:
    """The page, the number of images on it, the number left out by the limit, and the files that could not be read."""

    html: str
    shown: int
    left: int
    unreadable: tuple[Unreadable, ...]


def review(folder: Path, *, limit: int = DEFAULT_LIMIT, bundle: Path | None = None) -> Review:
    """A page of the `limit` images with the highest OOD scores in a folder of samples (see `FlaggedSample`).

    ```python
    Path("review.html").write_text(review(Path("flagged")).html, encoding="utf-8")
    ```

    Each image has the nearest training photos beside it, as far as its sidecar names them, with their small copies
    where `bundle` is one that was exported with thumbnails. The page lists damaged images and sidecars. Raises
    `InputError` as `read_samples` does and for a bundle without thumbnails, `FormatError` for a damaged bundle.
    """
    samples = read_samples(folder)
    with closing(_thumbnails(bundle)) if bundle else nullcontext() as thumbnails:
        return _review(samples, limit, thumbnails)


def _thumbnails(bundle: Path) -> Thumbnails:
    manifest = load_manifest(bundle)
    if manifest.thumbnails is None:
        raise InputError(f"{bundle} has no thumbnails; export it with --thumbnails, or leave out --bundle")
    return Thumbnails(bundle / manifest.thumbnails)


def _review(samples: Samples, limit: int, thumbnails: Thumbnails | None) -> Review:
    folder = samples.folder
    cards: list[Card] = []
    unreadable = list(samples.unreadable)
    looked = 0
    for sampled in samples.good:
        if len(cards) == limit:
            break
        looked += 1
        try:
            cards.append(_card(sampled, thumbnails))
        except (ImageError, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            unreadable.append(Unreadable(str(sampled.image.relative_to(folder)), why))
    unreadable.sort(key=lambda found: found.file)
    left = len(samples.good) - looked
    return Review(
        html=render(_page(samples, cards, unreadable, left)), shown=len(cards), left=left, unreadable=tuple(unreadable)
    )


def _card(sampled: Sampled, thumbnails: Thumbnails | None) -> Card:
    sample = sampled.sample
    above = [name.value for name, score in sample.scores.items() if score.is_ood]
    return Card(
        image=thumbnail(open_image(sampled.image.read_bytes(), OWN_FILES)),
        alt=f"image labelled {sample.label}, OOD score {sample.ood_score:.2f}",
        title=f"{sample.label}, {percent(sample.probability, 0)}",
        lines=(
            f"OOD score {sample.ood_score:.2f}",
            f"threshold {sample.threshold:.2f}",
            f"percentile {sample.percentile:.1f}",
            f"{len(above)} of {count(len(sample.scores), 'score')} above their thresholds"
            + (f": {', '.join(above)}" if above else ""),
            *_decided(sample.explanation),
            f"{sample.model.name} {sample.model.version}",
            f"{sample.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            sampled.image.name,
        ),
        mark="" if sample.ood_score > sample.threshold else "below its threshold",
        beside=_beside(sample.explanation, thumbnails),
    )


def _decided(explanation: Explanation | None) -> tuple[str, ...]:
    """The line about the scores that decided."""
    return () if explanation is None else (f"decided by {explanation.decided_by}",)


def _beside(explanation: Explanation | None, thumbnails: Thumbnails | None) -> tuple[Beside, ...]:
    """The nearest training photos."""
    found = []
    for neighbour in () if explanation is None else explanation.neighbours[:NEAREST]:
        small = None if thumbnails is None else thumbnails.read(neighbour.sha256)
        image = None if small is None else f"data:image/jpeg;base64,{b64encode(small).decode('ascii')}"
        found.append(Beside(image=image, caption=f"{neighbour.label}, distance {neighbour.distance:.3f}"))
    return tuple(found)


def _page(samples: Samples, cards: list[Card], unreadable: list[Unreadable], left: int) -> Page:
    found = [sampled.sample for sampled in samples.good]
    models = Counter(f"{sample.model.name} {sample.model.version}" for sample in found)
    first: list[Block] = [
        Facts(
            (
                Fact(
                    name="Images shown",
                    value=f"{len(cards):,}",
                    detail=f"{left:,} more with lower scores" if left else "",
                ),
                Fact(name="Could not be read", value=f"{len(unreadable):,}"),
                Fact(
                    name="Models",
                    value=f"{len(models):,}",
                    detail="; ".join(f"{name}: {n:,}" for name, n in models.most_common(4)),
                ),
            )
        )
    ]
    if len(models) > 1:
        first.append(Prose("Scores of different models are on different scales; compare percentiles."))
    sections = []
    if found:
        gallery = Gallery(caption="Highest OOD score first", cards=tuple(cards))
        sections = [Section("Flagged images", (gallery,)), Section("Labels given", (_labels(samples),))]
    if unreadable:
        table = Table(
            caption="Files that could not be read",
            head=("file", "why"),
            rows=tuple((bad.file, bad.why) for bad in unreadable),
            words=frozenset({1}),
        )
        sections.append(Section("Could not be read", (table,)))
    times = sorted(sample.time.astimezone(UTC) for sample in found)
    span = f", {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC" if times else ""
    return Page(
        title="Flagged images",
        subtitle=f"{count(len(found), 'sample')} in {samples.folder.name}{span}",
        first=tuple(first),
        sections=tuple(sections),
        footer="This page is one file and loads nothing else.",
    )


def _labels(samples: Samples) -> Table:
    labels = Counter(sampled.sample.label for sampled in samples.good)
    ranked = sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:MAX_LABELS]
    return Table(
        caption="The label that each flagged image would have got"
        + (f", the {MAX_LABELS} most frequent" if len(labels) > len(ranked) else ""),
        head=("label", "images", "share, %"),
        rows=tuple((label, f"{n:,}", f"{100 * n / len(samples.good):.1f}") for label, n in ranked),
    )
