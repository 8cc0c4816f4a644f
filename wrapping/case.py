"""One classifier and the photos for its guard: which preprocessing, which classes, and whether it knows the photos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oodguard.core.classifier import CLASSIFIER_FILE, InputType
from oodguard.core.errors import EnvironmentProblem, ImageError, InputError, QualityError
from oodguard.core.preprocessing import Preprocessing, load_pixels, network_input
from oodguard.training.backbone.classifier_trunk import ClassifierTrunk
from oodguard.training.backbone.features import TRAINING_LIMITS, Extractor
from oodguard.training.photos.class_names import read_names
from oodguard.training.photos.duplicates import settle
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.training.wrapped import Wrapped
from oodguard.wrapping.classes import ClassMap, match_classes, names_of_metadata
from oodguard.wrapping.conventions import conventions, require_decided
from oodguard.wrapping.known import Known, enough, renamed, require_knowledge, with_labels
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.pixels import with_pixels
from oodguard.wrapping.prepare import Prepared
from oodguard.wrapping.same import Original
from oodguard.wrapping.stated import PreprocessingOptions, stated
from oodguard.wrapping.trial import ConventionTrial, try_class_maps, try_conventions

# Photos on which the network with pixels in front must answer as the classifier's own file, bit for bit.
COMPARED = 64
# Images of a batch there; they are also compared one by one.
BATCH = 8


@dataclass(frozen=True)
class Case:
    """What is known before training: the classifier, and photos that have their folders' names for labels."""

    prepared: Prepared
    original: Original
    photos: Photos
    options: WrapOptions
    report: Reporter

    @property
    def dtype(self) -> InputType:
        """Of the classifier's input."""
        return self.prepared.record().dtype

    def class_maps(self, metadata: Mapping[str, str]) -> tuple[ClassMap, ...]:
        """The classes and their folders; several where only the order of folders says, and it may be one of several."""
        options, count = self.options, self.prepared.parts.classes
        if options.labels == "model":
            names = read_names(options.classes) if options.classes else names_of_metadata(metadata)
            if names is not None and len(names) != count:
                raise InputError(f"there are {len(names)} class names and the classifier has {count} classes")
            return (ClassMap(tuple(names or (f"class {i}" for i in range(count))), {}, "the classifier"),)
        every = (*self.photos.pool, *self.photos.held, *self.photos.test)
        return match_classes(
            sorted({photo.label for photo in every}),
            count=count,
            metadata=metadata,
            file=options.classes,
            mapping=options.classes_map,
        )

    def preprocessing(
        self, said: PreprocessingOptions, metadata: Mapping[str, str], maps: tuple[ClassMap, ...]
    ) -> tuple[Preprocessing, tuple[ClassMap, ...]]:
        """How pictures enter the classifier, and the classes it was found with: as stated, or as labels show.

        Raises `InputError`, after showing what was tried, where nothing is clearly right.
        """
        parts, report = self.prepared.parts, self.report
        found = stated(said, metadata=metadata, size=parts.size)
        for line in found.notes:
            report.note(line)
        left = conventions(found, size=parts.size, dtype=self.dtype)
        if left.decided is not None:
            return left.decided, maps
        if self.options.labels == "model":
            return require_decided(left), maps

        def run(array: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
            return self.original.probabilities(array, batch=len(array))

        def attempt(names: ClassMap) -> ConventionTrial:
            return try_conventions(
                run,
                [photo.path for photo in self.photos.pool],
                names.targets(photo.label for photo in self.photos.pool),
                conventions=left,
                layout=parts.layout,
                dtype=self.dtype,
                report=report,
                seed=self.options.seed,
            )

        names, trial = try_class_maps(maps, attempt)
        for row in (("preprocessing", "accuracy", "log-likelihood", "photos"), *trial.table()):
            report.note(f"  {row[0]:42} {row[1]:>8} {row[2]:>14} {row[3]:>6}")
        chosen = trial.preprocessing
        for line in trial.notes:
            report.note(line)
        report.note(f"preprocessing by trial: {trial.chosen.name if trial.chosen else ''}")
        return chosen, (names,)

    def network(self, preprocessing: Preprocessing) -> Path:
        """The classifier's graph with pixels in front, in the cache.

        Raises `QualityError` unless it answers real photos as the classifier's own file does, bit for bit.
        """
        parts = self.prepared.parts
        graph = with_pixels(
            self.prepared.graph,
            preprocessing,
            input_name=self.prepared.input,
            layout=parts.layout,
            dtype=self.dtype,
        )
        folder = self.options.cache / "wrapped" / hashlib.sha256(graph).hexdigest()[:24]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{CLASSIFIER_FILE}.partial"
            partial.write_bytes(graph)
            network = partial.replace(folder / CLASSIFIER_FILE)
        except OSError as error:
            raise EnvironmentProblem(f"{folder} cannot be written ({error.strerror})") from None
        self._require_equal(network, preprocessing)
        return network

    def _require_equal(self, network: Path, preprocessing: Preprocessing) -> None:
        parts = self.prepared.parts
        every = (*self.photos.test, *self.photos.held, *self.photos.pool)
        pixels = []
        for photo in every[:: max(1, len(every) // COMPARED)][:COMPARED]:
            try:
                pixels.append(load_pixels(photo.path.read_bytes(), preprocessing, TRAINING_LIMITS))
            except ImageError:
                continue
        if not pixels:
            raise InputError("none of the photos can be read")
        trunk, images = ClassifierTrunk(network, threads=self.options.threads), np.stack(pixels)
        given = network_input(images, preprocessing, layout=parts.layout, dtype=self.dtype)
        for size in (1, BATCH):
            # A network that is run image by image gives the answers of batches of one.
            wanted = self.original.probabilities(given, batch=1 if self.prepared.batch == "one by one" else size)
            found = np.concatenate([trunk.run(images[i : i + size]) for i in range(0, len(images), size)])
            found = found[:, -parts.classes :]
            if not np.array_equal(wanted, found):
                raise QualityError(
                    f"{parts.file} answers otherwise with pixels in front of it (probabilities differ by "
                    f"{np.abs(wanted - found).max():.1e} at batch {size}); nothing was written"
                )

    def labelled(self, network: Path, maps: Sequence[ClassMap], preprocessing: Preprocessing, *, name: str) -> Known:
        """The photos with the classifier's own class names for labels, and how well it knows them.

        Raises `InputError` for a classifier that does no better than chance, or too few photos of its classes.
        """
        options, photos = self.options, self.photos
        draft = Wrapped(
            record=self.prepared.record(),
            network=network,
            classes=maps[0].names,
            preprocessing=preprocessing,
            photos=photos,
        )
        extractor = Extractor(
            draft.backbone(threads=options.threads),
            cache=options.cache,
            on_unreadable=options.on_unreadable,
            threads=options.threads,
        )

        def answered(found: Sequence[Photo], stage: str) -> tuple[tuple[Photo, ...], npt.NDArray[np.int64]]:
            good = extractor.readable(found, lambda done, total: self.report.progress(stage, done, total))
            if not good:
                return (), np.empty(0, dtype=np.int64)
            return good, extractor.extract(good)[0][:, -len(maps[0].names) :].argmax(1)

        pool, labels = answered(photos.pool, "features of training images")
        if options.labels == "model":
            names = maps[0].names
            given = replace(
                photos,
                pool=with_labels(pool, labels, names),
                held=with_labels(*answered(photos.held, "features of calibration images"), names),
                test=with_labels(*answered(photos.test, "features of test images"), names),
            )
            return Known(names, enough(settle(given, options.on_duplicate), self.report), None)
        right = []
        for one in maps:
            targets = np.array(one.targets(photo.label for photo in pool))
            known = targets >= 0
            right.append(float(np.mean(labels[known] == targets[known])) if known.any() else 0.0)
        best = maps[int(np.argmax(right))]
        targets = np.array(best.targets(photo.label for photo in pool))
        accuracy = max(right)
        require_knowledge(accuracy, targets[targets >= 0])
        self.report.note(
            f"{name} labels {accuracy:.1%} of {int((targets >= 0).sum())} photos of --data right "
            f"(class names from {best.source})"
        )
        given = replace(
            photos, pool=renamed(photos.pool, best), held=renamed(photos.held, best), test=renamed(photos.test, best)
        )
        read = frozenset(photo.sha256 for photo in pool)
        return Known(best.names, enough(settle(given, options.on_duplicate), self.report, read=read), accuracy)
