"""Sampled flagged images as one HTML page for a person to look through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from oodguard.clients.samples import Sampled, Samples, Unreadable, read_samples
from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import open_image
from oodguard.pages.page import Block, Card, Fact, Facts, Gallery, Page, Prose, Section, Table, render
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


def review(folder: Path, *, limit: int = DEFAULT_LIMIT) -> Review:
    """A page of the `limit` images with the highest OOD scores in a folder of samples (see `FlaggedSample`).

    ```python
    Path("review.html").write_text(review(Path("flagged")).html, encoding="utf-8")
    ```

    The page lists damaged images and sidecars. Raises `InputError` as `read_samples` does.
    """
    samples = read_samples(folder)
    cards: list[Card] = []
    unreadable = list(samples.unreadable)
    looked = 0
    for sampled in samples.good:
        if len(cards) == limit:
            break
        looked += 1
        try:
            cards.append(_card(sampled))
        except (ImageError, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            unreadable.append(Unreadable(str(sampled.image.relative_to(folder)), why))
    unreadable.sort(key=lambda found: found.file)
    left = len(samples.good) - looked
    return Review(
        html=render(_page(samples, cards, unreadable, left)), shown=len(cards), left=left, unreadable=tuple(unreadable)
    )


def _card(sampled: Sampled) -> Card:
    sample = sampled.sample
    above = [name.value for name, score in sample.scores.items() if score.is_ood]
    return Card(
        image=thumbnail(open_image(sampled.image.read_bytes())),
        alt=f"image labelled {sample.label}, OOD score {sample.ood_score:.2f}",
        title=f"{sample.label}, {percent(sample.probability, 0)}",
        lines=(
            f"OOD score {sample.ood_score:.2f}",
            f"threshold {sample.threshold:.2f}",
            f"percentile {sample.percentile:.1f}",
            f"{len(above)} of {count(len(sample.scores), 'score')} above their thresholds"
            + (f": {', '.join(above)}" if above else ""),
            f"{sample.model.name} {sample.model.version}",
            f"{sample.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            sampled.image.name,
        ),
        mark="" if sample.ood_score > sample.threshold else "below its threshold",
    )


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
