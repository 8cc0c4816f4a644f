"""`wrap`: from a classifier that is there already to a run, with a guard around it that leaves its answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.training.photos.minimum import Minimum
from oodguard.training.pipeline import train
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RunRecord
from oodguard.training.run import require_free
from oodguard.training.wrapped import Wrapped
from oodguard.wrapping.case import Case
from oodguard.wrapping.file import read
from oodguard.wrapping.find import find_parts
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.photos import find_photos
from oodguard.wrapping.prepare import prepare
from oodguard.wrapping.same import Original, feeds_of
from oodguard.wrapping.stated import PreprocessingOptions


@dataclass(frozen=True)
class OnnxFile:
    """The classifier's ONNX file, its name, what is said of its preprocessing, and the file that it was made from."""

    path: Path
    name: str
    said: PreprocessingOptions
    made_from: Path | None = None


def wrap_file(source: OnnxFile, options: WrapOptions, out: Path, *, report: Reporter | None = None) -> RunRecord:
    """Put a guard around the classifier in an ONNX file, and write its run folder.

    Raises an `OodguardError` in one sentence for anything a user can mend; nothing is left at `out` then.
    """
    report = report or Silent()
    require_free(out, overwrite=options.overwrite)
    photos = find_photos(options, report)
    training = options.training(source.name, seen=not options.all_unseen)
    minimum = Minimum(training, tested=bool(photos.test), held=bool(photos.held))
    minimum.require(len(photos.held or photos.pool), wrapped=True)
    parts = find_parts(
        source.path, feature=options.feature, logits=options.logits, constants=_constants(options.constant)
    )
    for line in parts.lines():
        report.note(line)
    prepared = prepare(source.path, parts)
    for line in prepared.notes:
        report.note(line)
    if prepared.batch == "made dynamic":
        report.note("its batch is open in the guarded copy: it takes any number of images and gives the same bits")
    foreign = read(source.path)
    feeds = feeds_of({one.name: one for one in foreign.model.graph.input}, parts)
    original = Original(source.path, parts, feeds)
    case = Case(prepared, original, photos, options, report)
    maps = case.class_maps(foreign.metadata)
    preprocessing, maps = case.preprocessing(source.said, foreign.metadata, maps)
    network = case.network(preprocessing)
    known = case.labelled(network, maps, preprocessing, name=source.name)
    wrapped = Wrapped(
        record=known.record(
            prepared,
            name=source.name,
            sha256=parts.sha256 if source.made_from is None else file_sha256(source.made_from),
            options=options,
            report=report,
        ),
        network=network,
        classes=known.names,
        preprocessing=preprocessing,
        photos=known.photos,
    )
    return train(training, out, wrapped=wrapped, report=report)


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
