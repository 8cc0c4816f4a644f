"""Photos for a class that is to be added: which can be used, and what the heads read of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from oodguard.core.bank import Bank
from oodguard.core.errors import ImageError, InputError
from oodguard.core.manifest import INPUT_NAME
from oodguard.core.photo_folders import FolderRules
from oodguard.core.preprocessing import Pixels, Preprocessing, load_pixels
from oodguard.core.text import readable
from oodguard.core.verdict import Outputs
from oodguard.export.graph import OUTPUTS, session
from oodguard.export.head_parts import FeatureRows, HeadParts, tensors
from oodguard.export.names import needed
from oodguard.training.backbone.features import TRAINING_LIMITS, batches
from oodguard.training.photos.copies import copy_groups
from oodguard.training.photos.labelled import Photo, find_photos, load_unlabelled
from oodguard.training.photos.pictures import look

FEWEST = 10
BATCH = 8
NAMED = 3


@dataclass(frozen=True)
class NewPhotos:
    """Different photos of one new class, and the files that are none: copies of others, and unreadable ones."""

    photos: tuple[Photo, ...]
    copies: tuple[str, ...]
    unreadable: tuple[str, ...]


def new_photos(folder: Path, *, name: str, bank: Bank, classes: Sequence[str]) -> NewPhotos:
    """The photos of a folder to learn a class from.

    Raises `InputError` where a photo of the bank is among them, or fewer than `FEWEST` show different pictures.
    """
    found = load_unlabelled(folder)
    numbers = dict(zip(bank.sha256, bank.class_indices, strict=True))
    for photo in found:
        if photo.sha256 in numbers:
            raise InputError(
                f"{readable(str(photo.path))} is a photo that {readable(classes[numbers[photo.sha256]])} was trained "
                f"on; take it out of {readable(str(folder))}, or train again without it"
            )
    with tempfile.TemporaryDirectory(prefix="oodguard-") as cache:
        seen = look(found, Path(cache))
    order = range(len(seen.photos))
    groups = copy_groups(seen.photos, seen.pictures.copies, seen.pictures.colours, order=order)
    dropped = {copy.row: copy.how.format(seen.photos[copy.of].path.name) for group in groups for copy in group.copies}
    kept = tuple(photo for row, photo in enumerate(seen.photos) if row not in dropped)
    copies = tuple(f"{seen.photos[row].path.name}: {how}" for row, how in dropped.items())
    unreadable = tuple(f"{photo.path.name}: {why}" for photo, why in seen.unreadable.items())
    if len(kept) < FEWEST:
        raise InputError(
            f"{readable(str(folder))} has {len(kept)} different photos that can be read, and {readable(name)} needs at "
            f"least {FEWEST}; add photos{_listed('not used', (*unreadable, *copies))}"
        )
    return NewPhotos(photos=kept, copies=copies, unreadable=unreadable)


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return f" ({title}: {readable('; '.join(lines[:NAMED]))}{more})"


@dataclass(frozen=True)
class OldPhotos:
    """Labelled photos of the old classes that trained nothing: to set thresholds on, and to measure with."""

    calibration: tuple[Photo, ...]
    test: tuple[Photo, ...]


def old_photos(
    data: Path,
    cache: Path,
    *,
    bank: Bank,
    classes: Collection[str],
    trained: int,
    cross_fitted: bool,
    out: Collection[str],
    rules: FolderRules,
) -> OldPhotos:
    """The photos at `data` that the model was not trained on, divided.

    Photos of test/ measure; those of the other folders that are not in the bank calibrate. Without test/, and where the
    bank does not name every photo that trained, one half of what trained nothing does each, by their content.
    cache: where photos are unpacked to. out: SHA-256 of photos that are the new class's. rules: how the run read its
    folders. Raises `InputError` where none is left.
    """
    if not data.exists():
        raise InputError(f"--data takes the labelled photos that the run was trained on, and {data} does not exist")
    found = find_photos(data, cache, rules)
    named = {*bank.sha256, *out}

    def unseen(photos: Sequence[Photo]) -> tuple[Photo, ...]:
        once = {photo.sha256: photo for photo in photos if photo.label in classes and photo.sha256 not in named}
        return tuple(once.values())

    test = unseen(found.test)
    pool = unseen(found.pool) if len(bank) >= trained and not cross_fitted else ()
    if test and pool:
        return OldPhotos(calibration=pool, test=test)
    rest = test or pool
    if not rest:
        raise InputError(
            f"{data} has no photo of which the bundle says that it trained nothing; put labelled photos that are new "
            f"to the model into {data / 'test'}"
        )
    halves = [tuple(photo for photo in rest if int(photo.sha256[:8], 16) % 2 == half) for half in (0, 1)]
    return OldPhotos(calibration=halves[0], test=halves[1])


@dataclass(frozen=True)
class Seen:
    """Photos that could be read, what the heads read of them, and what the graph says."""

    photos: tuple[Photo, ...]
    rows: FeatureRows
    outputs: Outputs


class OpenedGraph:
    """A fused graph that also gives what its heads read; in memory only."""

    def __init__(self, model: onnx.ModelProto, preprocessing: Preprocessing) -> None:
        self.feature, self.first = tensors(model)
        self.preprocessing = preprocessing
        self._model = model
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        opened.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in (self.feature, self.first)
        )
        self._session = session(opened.SerializeToString())

    def run(self, images: Pixels) -> tuple[FeatureRows, Outputs]:
        """What the heads read of uint8 images `[B, H, W, 3]`, and what the graph says of them."""
        return _answers(self._session, images, self.feature, self.first)

    def see(self, photos: Sequence[Photo], progress: Callable[[int, int], None]) -> Seen:
        """The photos that can be read. Raises `InputError` where none can."""
        kept: list[Photo] = []
        parts: list[tuple[FeatureRows, Outputs]] = []
        for rows in batches(len(photos), BATCH):
            pixels: list[Pixels] = []
            for photo in photos[rows]:
                try:
                    pixels.append(load_pixels(photo.path.read_bytes(), self.preprocessing, TRAINING_LIMITS))
                except (ImageError, OSError):
                    continue
                kept.append(photo)
            if pixels:
                parts.append(self.run(np.stack(pixels)))
            progress(min(rows.stop, len(photos)), len(photos))
        if not parts:
            raise InputError("none of the photos can be read")
        return Seen(
            photos=tuple(kept),
            rows=FeatureRows(
                feature=np.concatenate([rows.feature for rows, _ in parts]),
                first=np.concatenate([rows.first for rows, _ in parts]),
            ),
            outputs=Outputs(
                probabilities=np.concatenate([outputs.probabilities for _, outputs in parts]),
                scores=np.concatenate([outputs.scores for _, outputs in parts]),
            ),
        )

    def of_bank(self, parts: HeadParts, *, length: float) -> FeatureRows:
        """The training photos of the bank, from the coordinates that it keeps of their features.

        The bank has u = x / |x| in its principal coordinates q and the squared length of the rest; x is taken to be
        `length` (mean + P q) / |mean + P q|. What is lost lies outside the coordinates, where heads see little.
        """
        unit = parts.mean + parts.bank @ parts.projection.T
        feature = (length * unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
        (first,) = self._layer().run([self.first], {self.feature: feature})
        return FeatureRows(feature=feature, first=first)

    def _layer(self) -> ort.InferenceSession:
        """The heads' first layer alone, from a feature."""
        layer = onnx.ModelProto()
        layer.CopyFrom(self._model)
        graph = layer.graph
        before = needed(graph, [self.feature])
        wanted = needed(graph, [self.first]) - before
        kept = [onnx.NodeProto.FromString(graph.node[place].SerializeToString()) for place in sorted(wanted)]
        del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
        graph.node.extend(kept)
        graph.input.append(onnx.helper.make_tensor_value_info(self.feature, onnx.TensorProto.FLOAT, None))
        graph.output.append(onnx.helper.make_tensor_value_info(self.first, onnx.TensorProto.FLOAT, None))
        return session(layer.SerializeToString())


def _answers(running: ort.InferenceSession, images: Pixels, feature: str, first: str) -> tuple[FeatureRows, Outputs]:
    found = dict(
        zip((feature, first, *OUTPUTS), running.run([feature, first, *OUTPUTS], {INPUT_NAME: images}), strict=True)
    )
    rows = FeatureRows(feature=found.pop(feature), first=found.pop(first))
    return rows, Outputs(**found)
