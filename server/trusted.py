"""Photos that somebody vouches for, run through a bundle's graph: what a recalibration is fitted on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from oodguard.core.answers import FlaggedSample
from oodguard.core.errors import ImageError, InputError
from oodguard.core.photo_folders import class_above
from oodguard.core.quality import Traits
from oodguard.core.text import readable
from oodguard.core.verdict import Outputs
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.golden import join
from oodguard.server.offline.items import Item
from oodguard.server.offline.limits import refusal
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.sources import Source

MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True)
class TrustedPhotos:
    """N different photos, what the graph returned for them, their pictures' traits, and what the bundle said of them.

    accepted: how many were not flagged. sampled: how many are flagged samples that a server kept. targets: true classes
    `[N]` where every photo is in a folder named after one; `homeless` is the first that is in none. copies: photos left
    out because another has the same bytes. unreadable: files that cannot be used, and why.
    """

    outputs: Outputs
    traits: tuple[Traits, ...]
    accepted: int
    sampled: int
    targets: npt.NDArray[np.int64] | None
    homeless: str | None
    copies: int
    unreadable: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.outputs.scores)


def photos_of(sources: Sequence[str], *, base: Path, max_bytes: int) -> list[Item]:
    """The images of folders, lists and archives, in order. Raises `InputError` for a source that has none."""
    found: list[Item] = []
    for source in sources:
        items = list(Source(source, base=base, max_bytes=max_bytes))
        if not items:
            raise InputError(f"{readable(source)} has no images; name a folder, a list or an archive of photos")
        found += items
    return found


def judged_photos(
    judge: BatchJudge,
    items: Sequence[Item],
    *,
    base: Path,
    max_bytes: int,
    source: str | None,
    progress: Callable[[int, int], None],
) -> TrustedPhotos:
    """Run photos through the judge's graph; `progress` gets how many are done, and of how many.

    Raises `InputError` where no photo can be used, or one photo is in the folders of two classes; `EngineError`.
    """
    reader = Reader(base, max_bytes=max_bytes)
    digests: dict[Item, str] = {}

    def read(item: Item) -> bytes:
        data = reader.read(item)
        digests[item] = hashlib.sha256(data).hexdigest()
        return data

    kept: dict[str, Item] = {}
    rows: list[Outputs] = []
    traits: list[Traits] = []
    accepted = copies = done = 0
    unreadable: list[tuple[str, str]] = []
    asked, batches = judge.manifest.targets, _batched(items, judge.plan.max_batch)
    try:
        with closing(judge.each(batches, read=read, targets=asked, top_k=1, source=source)) as judging:
            for batch, future in judging:
                judged = future.result()
                row = _rows(judged.outputs)
                for item, outcome, seen in zip(batch, judged.outcomes, judged.traits, strict=True):
                    if isinstance(outcome, ImageError) or seen is None:
                        why = refusal(outcome) if isinstance(outcome, ImageError) else str(outcome)
                        unreadable.append((name_of(item), why))
                        continue
                    outputs, digest = next(row), digests[item]
                    if digest in kept:
                        _require_same_folder(kept[digest], item, judge.manifest.classes)
                        copies += 1
                        continue
                    kept[digest] = item
                    rows.append(outputs)
                    traits.append(seen)
                    accepted += not outcome.is_ood
                done += len(batch)
                progress(done, len(items))
    finally:
        reader.close()
    if not rows:
        raise InputError(f"none of the photos can be used; {readable(unreadable[0][0])}: {unreadable[0][1]}")
    found = list(kept.values())
    targets, homeless = _labels(found, judge.manifest.classes)
    return TrustedPhotos(
        outputs=join(rows),
        traits=tuple(traits),
        accepted=accepted,
        sampled=sum(_is_sample(base, item) for item in found),
        targets=targets,
        homeless=homeless,
        copies=copies,
        unreadable=tuple(unreadable),
    )


def name_of(item: Item) -> str:
    """A photo, for people."""
    return item.path if item.member is None else f"{item.path}: {item.member}"


def _batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


def _rows(parts: Sequence[Outputs]) -> Iterator[Outputs]:
    for part in parts:
        for row in range(len(part.scores)):
            yield Outputs(probabilities=part.probabilities[row : row + 1], scores=part.scores[row : row + 1])


def _class(item: Item, classes: Collection[str]) -> str | None:
    return class_above(PurePath(item.member or item.path), classes)


def _require_same_folder(one: Item, other: Item, classes: Sequence[str]) -> None:
    found = _class(one, classes), _class(other, classes)
    if found[0] != found[1] and None not in found:
        raise InputError(
            f"{readable(name_of(one))} and {readable(name_of(other))} are one photo in the folders of two classes; "
            "remove it from one of them"
        )


def _labels(items: Sequence[Item], classes: Sequence[str]) -> tuple[npt.NDArray[np.int64] | None, str | None]:
    numbers = {label: number for number, label in enumerate(classes)}
    found = [_class(item, numbers) for item in items]
    if None in found:
        return None, name_of(items[found.index(None)])
    return np.array([numbers[label] for label in found if label is not None], dtype=np.int64), None


def _is_sample(base: Path, item: Item) -> bool:
    """Whether a server's sidecar lies beside a photo."""
    path = (base / item.path).with_suffix(".json")
    try:
        if item.kind != "file" or path.stat().st_size > MAX_SIDECAR_BYTES:
            return False
        FlaggedSample.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True
