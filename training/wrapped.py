"""A wrapped classifier as training takes it: its network, its classes, and photos that have its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oodguard.core.classifier import CLASSIFIER_FILE, ClassifierRecord
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.classifier_trunk import classifier_backbone
from oodguard.training.backbone.network import Backbone
from oodguard.training.heads.rows import Rows
from oodguard.training.photos.labelled import Photos
from oodguard.training.run import Run


@dataclass(frozen=True)
class Wrapped:
    """A classifier that was there before, for `pipeline.train`.

    network: its graph as `core.classifier` describes it. classes: names, in the order of its probabilities. photos:
    labelled by these names; those of `held` are photos that it was not trained on.
    """

    record: ClassifierRecord
    network: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    photos: Photos

    def backbone(self, *, threads: int = 0) -> Backbone:
        """Its network, of which nothing is tuned."""
        return classifier_backbone(
            self.network,
            name=self.record.file,
            source=f"wrapped:{self.record.file}",
            preprocessing=self.preprocessing,
            rows=Rows(self.record.width, len(self.classes)),
            threads=threads,
        )

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that there are photos of, in the order of `classes`."""
        found = {photo.label for photo in self.photos.pool}
        return tuple(name for name in self.classes if name in found)


def wrapped_of(run: Run, photos: Photos) -> Wrapped | None:
    """The classifier that a run was made around, for another training; None where it was trained with the run."""
    if run.record.classifier is None:
        return None
    return Wrapped(
        record=run.record.classifier,
        network=run.folder / CLASSIFIER_FILE,
        classes=run.record.classes,
        preprocessing=run.record.preprocessing,
        photos=photos,
    )
