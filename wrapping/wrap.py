"""`wrap`: from a classifier that is there already to a run, with a guard around it that leaves its answers alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oodguard.core.classifier import CLASSIFIER_FILE, ClassifierRecord
from oodguard.core.errors import EnvironmentProblem, InputError, QualityError
from oodguard.core.preprocessing import Preprocessing, load_pixels, network_input
from oodguard.training.backbone.classifier_trunk import ClassifierTrunk
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor
from oodguard.training.photos.labelled import MIN_PER_CLASS, Photo, Photos
from oodguard.training.pipeline import train
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RunRecord
from oodguard.training.wrapped import Wrapped
from oodguard.wrapping.classes import ClassNames, class_names
from oodguard.wrapping.conventions import conventions, require_decided
from oodguard.wrapping.find import Parts, find_parts
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.photos import find_photos
from oodguard.wrapping.pixels import with_pixels
from oodguard.wrapping.prepare import Prepared, prepare
from oodguard.wrapping.stated import PreprocessingOptions, stated
from oodguard.wrapping.trial import try_conventions

# Above this accuracy on --data a classifier is taken to have been trained on it, unless somebody says otherwise.
SEEN_ACCURACY = 0.95
# Photos on which the network with pixels in front must answer as the classifier's own file, bit for bit.
COMPARED = 64


@dataclass(frozen=True)
class Source:
    """The classifier's ONNX file, what it is called, and what came with it."""

    path: Path
    name: str
    said: PreprocessingOptions


def wrap_file(source: Source, options: WrapOptions, out: Path, *, report: Reporter | None = None) -> RunRecord:
    """Put a guard around the classifier in an ONNX file, and write its run folder.

    Raises an `OodguardError` in one sentence for anything a user can mend; nothing is left at `out` then.
    """
    report = report or Silent()
    parts = find_parts(
        source.path, feature=options.feature, logits=options.logits, constants=_constants(options.constant)
    )
    for line in parts.lines():
        report.note(line)
    prepared = prepare(source.path, parts)
    for line in prepared.notes:
        report.note(line)
    photos = find_photos(options)
    names = class_names(options, parts, photos)
    for line in names.notes:
        report.note(line)
    targets = [names.index(photo.label) for photo in photos.pool] if options.labels == "photos" else []
    preprocessing = _preprocessing(source, prepared, photos, targets, options, report)
    network = _network(prepared, preprocessing, options)
    _require_equal(source.path, prepared, network, preprocessing, photos)
    photos, accuracy = _labelled(network, source.name, names, photos, preprocessing, options, report)
    record = _record(source, parts, prepared, names, photos, options, accuracy, report)
    wrapped = Wrapped(record=record, network=network, classes=names.names, preprocessing=preprocessing, photos=photos)
    return train(options.training(source.name, seen=not options.all_unseen), out, wrapped=wrapped, report=report)


def _constants(given: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """`NAME=1,2,3` by name."""
    found = {}
    for text in given:
        name, separator, values = text.rpartition("=")
        try:
            found[name] = tuple(float(value) for value in values.split(","))
        except ValueError:
            separator = ""
        if not (name and separator):
            raise InputError(f"--constant {text!r} is not NAME=NUMBER or NAME=NUMBER,NUMBER,...")
    return found


def _preprocessing(
    source: Source,
    prepared: Prepared,
    photos: Photos,
    targets: Sequence[int],
    options: WrapOptions,
    report: Reporter,
) -> Preprocessing:
    """How pictures enter the classifier: as somebody says, or as it labels the photos best."""
    parts = prepared.parts
    said = stated(source.said, metadata=parts.metadata, size=(parts.height, parts.width_of_input))
    for line in said.notes:
        report.note(line)
    left = conventions(said, size=(parts.height, parts.width_of_input), dtype=parts.dtype)
    if left.decided is not None:
        return left.decided
    if options.labels == "model":
        return require_decided(left)
    running = prepared.session(threads=options.threads)

    def run(array: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        return prepared.probabilities(running, array)

    trial = try_conventions(
        run,
        [photo.path for photo in photos.pool],
        targets,
        conventions=left,
        layout=parts.layout,
        dtype=parts.dtype,
        report=report,
        seed=options.seed,
    )
    for row in (("preprocessing tried", "accuracy", "log-likelihood", "photos"), *trial.table()):
        report.note(f"  {row[0]:58} {row[1]:>8} {row[2]:>14} {row[3]:>6}")
    found = trial.preprocessing
    for line in trial.notes:
        report.note(line)
    report.note(f"preprocessing found by trial: {trial.chosen.name if trial.chosen else ''}")
    return found


def _network(prepared: Prepared, preprocessing: Preprocessing, options: WrapOptions) -> Path:
    """The classifier's graph with pixels in front, in the cache."""
    parts = prepared.parts
    graph = with_pixels(
        prepared.graph, preprocessing, input_name=prepared.input_name, layout=parts.layout, dtype=parts.dtype
    )
    folder = options.cache / "wrapped" / hashlib.sha256(graph).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{CLASSIFIER_FILE}.partial"
        partial.write_bytes(graph)
        return partial.replace(folder / CLASSIFIER_FILE)
    except OSError as error:
        raise EnvironmentProblem(f"{folder} cannot be written ({error.strerror})") from None


def _require_equal(path: Path, prepared: Prepared, network: Path, preprocessing: Preprocessing, photos: Photos) -> None:
    """Raise `QualityError` unless the network answers real photos as the classifier's own file does, bit for bit."""
    every = (*photos.test, *photos.held, *photos.pool)
    step = max(1, len(every) // COMPARED)
    pixels = []
    for photo in every[::step][:COMPARED]:
        try:
            pixels.append(load_pixels(photo.path.read_bytes(), preprocessing, TRAINING_LIMITS))
        except (InputError, OSError):
            continue
    trunk, classes = ClassifierTrunk(network), prepared.parts.classes
    for size in (1, 8):
        for start in range(0, len(pixels) - size + 1, size):
            images = np.stack(pixels[start : start + size])
            wanted = prepared.original(path, network_input(images, preprocessing))
            found = trunk.run(images)[:, -classes:]
            if not np.array_equal(wanted, found):
                raise QualityError(
                    f"{path} answers otherwise with pixels in front of it (probabilities differ by "
                    f"{np.abs(wanted - found).max():.1e} at batch {size}); nothing was written"
                )


def _labelled(
    network: Path,
    name: str,
    names: ClassNames,
    photos: Photos,
    preprocessing: Preprocessing,
    options: WrapOptions,
    report: Reporter,
) -> tuple[Photos, float | None]:
    """The photos with the classifier's own class names for labels, and its accuracy on those it may have seen."""
    draft = Wrapped(
        record=ClassifierRecord.model_construct(file=name, width=1),
        network=network,
        classes=names.names,
        preprocessing=preprocessing,
        photos=photos,
    )
    backbone = draft.backbone(threads=options.threads)
    extractor = Extractor(backbone, cache=options.cache, on_unreadable=options.on_unreadable, threads=options.threads)
    count = len(names.names)

    def answered(found: Sequence[Photo], stage: str) -> tuple[tuple[Photo, ...], npt.NDArray[np.int64]]:
        good = extractor.readable(found, lambda done, total: report.progress(stage, done, total))
        if not good:
            return (), np.empty(0, dtype=np.int64)
        return good, extractor.extract(good)[0][:, -count:].argmax(1)

    pool, labels = answered(photos.pool, "features of training images")
    if options.labels == "model":
        held, held_labels = answered(photos.held, "features of calibration images")
        test, test_labels = answered(photos.test, "features of test images")
        given = Photos(
            pool=_with_labels(pool, labels, names.names),
            held=_with_labels(held, held_labels, names.names),
            test=_with_labels(test, test_labels, names.names),
        )
        return _enough(given, report), None
    given = Photos(
        pool=_renamed(photos.pool, names), held=_renamed(photos.held, names), test=_renamed(photos.test, names)
    )
    targets = np.array([names.index(photo.label) for photo in pool])
    known = targets >= 0
    accuracy = float(np.mean(labels[known] == targets[known]))
    _require_knowledge(accuracy, targets[known])
    report.note(f"the classifier labels {accuracy:.1%} of {int(known.sum())} photos of --data right")
    return _enough(given, report), accuracy


def _require_knowledge(accuracy: float, targets: npt.NDArray[np.int64]) -> None:
    """Raise `InputError` for a classifier that does no better than giving the most frequent label."""
    chance = np.bincount(targets).max() / len(targets)
    if accuracy <= chance + 3.0 * float(np.sqrt(chance * (1.0 - chance) / len(targets))):
        raise InputError(
            f"the classifier labels {accuracy:.1%} of the photos right, and always giving the most frequent label "
            f"{chance:.1%}: its preprocessing, the order of its classes or the photos are others; see --preprocessing, "
            "--classes and --classes-map"
        )


def _with_labels(photos: Sequence[Photo], labels: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Photo, ...]:
    return tuple(dataclasses.replace(photo, label=names[label]) for photo, label in zip(photos, labels, strict=True))


def _renamed(photos: Sequence[Photo], names: ClassNames) -> tuple[Photo, ...]:
    """The photos of the classifier's classes, by these names."""
    found = [(photo, names.index(photo.label)) for photo in photos]
    return tuple(dataclasses.replace(photo, label=names.names[index]) for photo, index in found if index >= 0)


def _enough(photos: Photos, report: Reporter) -> Photos:
    """Without the classes of which there are too few photos to learn anything about."""
    counts = Counter(photo.label for photo in photos.pool)
    few = sorted(label for label, count in counts.items() if count < MIN_PER_CLASS)
    if few:
        report.note(f"too few photos to learn from of {', '.join(few)}: their scores rest on the other classes")
    known = {label for label, count in counts.items() if count >= MIN_PER_CLASS}
    if len(known) < 2:
        raise InputError("the photos show fewer than 2 of the classifier's classes; give photos of more")
    return photos.without(frozenset({photo.label for photo in (*photos.pool, *photos.held, *photos.test)} - known))


def _record(
    source: Source,
    parts: Parts,
    prepared: Prepared,
    names: ClassNames,
    photos: Photos,
    options: WrapOptions,
    accuracy: float | None,
    report: Reporter,
) -> ClassifierRecord:
    """What the run keeps of the classifier, after saying what the photos cannot show."""
    covered = {photo.label for photo in photos.pool}
    uncovered = tuple(name for name in names.names if name not in covered)
    if uncovered:
        more = f" and {len(uncovered) - 6} more" if len(uncovered) > 6 else ""
        report.note(f"no photos of {len(uncovered)} of its classes: {', '.join(uncovered[:6])}{more}")
    fresh = bool(photos.held) or options.all_unseen
    seen = not fresh and (accuracy is None or accuracy >= SEEN_ACCURACY)
    if seen:
        why = "" if accuracy is None else f", of which it labels {accuracy:.1%} right"
        report.note(
            f"no photos are known to be new to the classifier: thresholds come from changed views of --data{why}, and "
            "flag more or fewer new photos than they promise; give new ones with --unseen or in val/, or say "
            "--all-unseen"
        )
    if options.labels == "model":
        report.note(
            "labels are the classifier's own answers: nothing says how often it is right, so answers hold no "
            "label sets and no decision"
        )
    return ClassifierRecord(
        file=source.name,
        sha256=parts.sha256,
        producer=parts.producer,
        opset=parts.opset,
        input=parts.input,
        layout=parts.layout,
        dtype=parts.dtype,
        batch=prepared.batch,
        output=parts.output,
        activation=parts.activation,
        logits=parts.logits,
        feature=parts.feature,
        width=parts.width,
        uncovered=uncovered,
        unseen=None if options.unseen is None else str(options.unseen),
        seen=seen,
        labels=options.labels,
    )
