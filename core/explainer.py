"""`Explainer`: from the measurements of an image to its explanation. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodguard.core.bank import Bank
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import FormatError, QualityError
from oodguard.core.explanation import Explanation, FamilyPart, Neighbour, ScorePart
from oodguard.core.fusion import Fusion
from oodguard.core.manifest import Manifest
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Measured


@dataclass(frozen=True)
class Explainer:
    """Explains the images that a bundle's graph measured; without a `bank` it names no training photos.

    ```python
    explainer = Explainer.load(bundle, manifest)
    explanation = explainer.explain(manifest.measure(outputs), 0)
    ```
    """

    manifest: Manifest
    bank: Bank | None = None

    def __post_init__(self) -> None:
        if self.bank is not None and max(self.bank.class_indices) >= len(self.manifest.classes):
            raise FormatError(f"the bank of {self.manifest.name} names a class that its manifest has not")

    @classmethod
    def load(cls, bundle: Path, manifest: Manifest) -> Explainer:
        """The explainer of a bundle. Raises `FormatError` for a damaged bank."""
        return cls(manifest, None if manifest.bank is None else Bank.read(bundle / manifest.bank))

    def explain(self, measured: Measured, row: int) -> Explanation:
        """The explanation of one image of a measured batch. Raises `QualityError` for a row that the bank has not."""
        calibration = self.manifest.calibration
        values = dict(zip(calibration.names, measured.scores[row], strict=True))
        families, scores = parts_of(calibration.fusion, calibration.curves, values)
        return Explanation(
            decided_by=families[0].family, families=families, scores=scores, neighbours=self._neighbours(measured, row)
        )

    def _neighbours(self, measured: Measured, row: int) -> tuple[Neighbour, ...]:
        if self.bank is None or measured.neighbours is None or measured.distances is None:
            return ()
        # Runtimes put photos at equal distances in different orders.
        found = sorted(zip(measured.distances[row].tolist(), measured.neighbours[row].tolist(), strict=True))
        if not all(0 <= place < len(self.bank) for _, place in found):
            raise QualityError(f"the graph names a training photo that the bank of {self.manifest.name} has not")
        return neighbours_of(self.bank, self.manifest.classes, found)


def neighbours_of(bank: Bank, classes: Sequence[str], found: Iterable[tuple[float, int]]) -> tuple[Neighbour, ...]:
    """The training photos at some rows of a bank, each with its distance, in their order."""
    return tuple(
        Neighbour(
            label=classes[bank.class_indices[place]],
            class_index=bank.class_indices[place],
            distance=distance,
            sha256=bank.sha256[place],
        )
        for distance, place in found
    )


def parts_of(
    fusion: Fusion, curves: Mapping[ScoreName, QuantileCurve], values: Mapping[ScoreName, float]
) -> tuple[tuple[FamilyPart, ...], tuple[ScorePart, ...]]:
    """What each family and each score adds to the fused score of one image with these `values`.

    Families are ordered by their term, scores by their family and then by their surprise, the largest first.
    """
    columns = {name: np.array([value], dtype=np.float64) for name, value in values.items()}
    families = []
    for part in fusion.families:
        surprise = float(part.surprise(curves, columns)[0])
        term = float(np.log(part.share)) + surprise
        families.append(FamilyPart(family=part.family, share=part.share, surprise=surprise, term=term))
    families.sort(key=lambda part: -part.term)
    members = {part.family: part.scores for part in fusion.families}
    scores: list[ScorePart] = []
    for family in (part.family for part in families):
        found = [
            ScorePart(
                name=name,
                family=family,
                surprise=float(curves[name].surprise(values[name])),
                percentile=float(curves[name].percentile(values[name])),
            )
            for name in members[family]
        ]
        scores += sorted(found, key=lambda part: -part.surprise)
    return tuple(families), tuple(scores)
