"""Copies: photos that are the same file, or the same picture in another file.

Two photos show the same picture when small grey copies of them agree, coarsely and in their details, in one of the
eight ways to turn and mirror a picture, and so do their colours unless one was made grey. Encoding again, resizing,
squashing, greying and editing the light hardly move these correlations (0.98 and more); different photos of a set stay
below a limit that the set itself gives, because scans of forms are more alike than photos of shops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.pictures import SIDE

# 1 - correlation, below which two photos are the same picture: a share of what lies between a photo and the one that
# is most like it, in most of the set, within bounds.
GAP_SHARE = 0.1
USUAL = 0.75
SMALLEST_GAP, LARGEST_GAP = 0.003, 0.05
# Less contrast than this (grey levels) is one colour: all such photos are alike, and nothing follows from it.
PLAIN = 4.0
# One cut in two colours is two products: chroma may differ by so many levels, unless one of the two has no colour.
SAME_COLOUR, COLOURLESS = 8.0, 3.0
_SAMPLE = 512
_ROWS = 1024
# Ways to turn and mirror a square, and what to say of them.
_TURNS = (
    (0, False, "the same picture as {}"),
    (0, True, "the same picture as {}, mirrored"),
    (2, False, "the same picture as {}, upside down"),
    (2, True, "the same picture as {}, mirrored upside down"),
    (1, False, "the same picture as {}, turned"),
    (3, False, "the same picture as {}, turned"),
    (1, True, "the same picture as {}, mirrored and turned"),
    (3, True, "the same picture as {}, mirrored and turned"),
)
SAME_FILE = "the same file as {}"
# Frames are alike however different the pictures in them are: the middle must agree, too.
_MIDDLE = slice(SIDE // 8, SIDE - SIDE // 8)

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Copy:
    """One photo of a group, and how much it correlates with another one (1: the same file); how: with a place for that
    one's name."""

    row: int
    how: str
    of: int
    likeness: float


@dataclass(frozen=True)
class CopyGroup:
    """Photos that show one picture. kept: the row of the photo that the others are taken to be copies of."""

    kept: int
    copies: tuple[Copy, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Every photo of the group, the kept one first."""
        return (self.kept, *(copy.row for copy in self.copies))


def copy_groups(
    photos: Sequence[Photo],
    copies: npt.NDArray[np.uint8],
    colours: npt.NDArray[np.uint8],
    *,
    order: Sequence[int],
) -> list[CopyGroup]:
    """The groups of copies among N photos with small grey copies `[N, SIDE, SIDE]` and tiny colours `[N, h, w, 2]`.

    order: a number for each photo; the smallest of a group is the one that is kept.
    """
    links: dict[tuple[int, int], tuple[str, float]] = {}
    first: dict[str, int] = {}
    for row, photo in enumerate(photos):
        other = first.setdefault(photo.sha256, row)
        if other != row:
            links[other, row] = (SAME_FILE, 1.0)
    alone = np.array(sorted(first.values()), dtype=np.int64)
    for a, b, how, likeness in _same_pictures(copies[alone], colours[alone]):
        pair = (int(alone[a]), int(alone[b]))
        if likeness > links.get(pair, ("", -1.0))[1]:
            links[pair] = (how, likeness)
    return _groups(links, order)


def same_files(photos: Sequence[Photo]) -> npt.NDArray[np.int64]:
    """A number for each photo, `[N]`, which photos of the same bytes share."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(photo.sha256, len(numbers)) for photo in photos], dtype=np.int64)


def _groups(links: dict[tuple[int, int], tuple[str, float]], order: Sequence[int]) -> list[CopyGroup]:
    neighbours: dict[int, dict[int, tuple[str, float]]] = {}
    for (a, b), link in links.items():
        neighbours.setdefault(a, {})[b] = link
        neighbours.setdefault(b, {})[a] = link
    found = []
    waiting = sorted(neighbours, key=lambda row: order[row])
    reached: set[int] = set()
    for kept in waiting:
        if kept in reached:
            continue
        reached.add(kept)
        copies, edge = [], [kept]
        while edge:
            at = edge.pop(0)
            for row, (how, likeness) in sorted(neighbours[at].items(), key=lambda item: order[item[0]]):
                if row not in reached:
                    reached.add(row)
                    copies.append(Copy(row=row, how=how, of=at, likeness=likeness))
                    edge.append(row)
        found.append(CopyGroup(kept=kept, copies=tuple(copies)))
    return found


def _same_pictures(copies: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8]) -> list[tuple[int, int, str, float]]:
    """Pairs of rows that show the same picture, how, and their correlation."""
    busy = np.flatnonzero(copies.reshape(len(copies), -1).std(1) >= PLAIN) if len(copies) else np.zeros(0, np.int64)
    if len(busy) < 2:
        return []
    grey = copies[busy].astype(np.float32)
    coarse, fine, middle = _coarse(grey), _fine(grey), _middle(grey)
    limit = 1.0 - _gap(coarse, fine)
    chroma = colours[busy].astype(np.float32) - 128.0
    coloured = np.abs(chroma).mean((1, 2, 3)) > COLOURLESS
    found = []
    for turns, mirror, how in _TURNS:
        turned = np.rot90(grey[:, :, ::-1] if mirror else grey, turns, axes=(1, 2))
        coarse_turned, fine_turned, middle_turned = _coarse(turned), _fine(turned), _middle(turned)
        chroma_turned = np.rot90(chroma[:, :, ::-1] if mirror else chroma, turns, axes=(1, 2))
        for start in range(0, len(busy), _ROWS):
            rows, others = np.nonzero(coarse[start : start + _ROWS] @ coarse_turned.T >= limit)
            rows += start
            ahead = rows < others
            rows, others = rows[ahead], others[ahead]
            parts = ((coarse, coarse_turned), (fine, fine_turned), (middle, middle_turned))
            likeness = np.min([np.einsum("nd,nd->n", a[rows], b[others]) for a, b in parts], axis=0)
            near = likeness >= limit
            other = np.abs(chroma[rows] - chroma_turned[others]).mean((1, 2, 3)) > SAME_COLOUR
            near &= ~(other & coloured[rows] & coloured[others])
            found += [
                (int(busy[a]), int(busy[b]), how, float(min(one, 1.0)))
                for a, b, one in zip(rows[near], others[near], likeness[near], strict=True)
            ]
    return found


def _gap(coarse: Vectors, fine: Vectors) -> float:
    """1 - correlation, below which two photos are the same picture."""
    sample = np.linspace(0, len(coarse) - 1, min(len(coarse), _SAMPLE)).round().astype(np.int64)
    likeness = np.minimum(coarse[sample] @ coarse.T, fine[sample] @ fine.T)
    likeness[np.arange(len(sample)), sample] = -1.0
    usual = float(np.quantile(1.0 - likeness.max(1), USUAL))
    return float(np.clip(GAP_SHARE * usual, SMALLEST_GAP, LARGEST_GAP))


def _coarse(grey: Vectors) -> Vectors:
    """Unit vectors `[N, 256]` of copies shrunk to 16 x 16."""
    return _unit(grey.reshape(len(grey), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4)))


def _fine(grey: Vectors) -> Vectors:
    """Unit vectors `[N, 1024]` of what copies have beyond 8 x 8: their details."""
    low = grey.reshape(len(grey), SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))
    return _unit(grey - np.repeat(np.repeat(low, 4, axis=1), 4, axis=2))


def _middle(grey: Vectors) -> Vectors:
    """Unit vectors `[N, 576]` of the middle of copies."""
    return _unit(grey[:, _MIDDLE, _MIDDLE])


def _unit(values: Vectors) -> Vectors:
    flat = (values - values.mean((1, 2), keepdims=True)).reshape(len(values), -1)
    found: Vectors = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return found
