from __future__ import annotations

import numpy as np

from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence


def test_ends_are_the_highest_and_lowest_scores(found: Evaluation, evidence: Evidence) -> None:
    first = found.extremes[0]
    assert (first.set, first.score, first.highest, len(first.images)) == ("ID test", FUSED, True, 12)
    fused = evidence.test.values[FUSED]
    np.testing.assert_array_equal([i.fused for i in first.images], np.sort(fused)[::-1][:12])
    missed = next(e for e in found.extremes if e.set == "far" and e.score == "pds" and not e.highest)
    assert [i.pds for i in missed.images] == np.sort(evidence.ood["far"].values["pds"])[:6].tolist()


def test_an_image_is_described_by_its_own_row(found: Evaluation, evidence: Evidence) -> None:
    image = found.extremes[0].images[3]
    answers, record = evidence.test.answers, evidence.record
    assert image.file == str(evidence.test.photos[image.row].path)
    assert image.label == record.classes[evidence.targets[image.row]]
    assert image.predicted == record.classes[answers.probabilities[image.row].argmax()]
    assert image.flagged == (image.fused > found.thresholds[FUSED])
