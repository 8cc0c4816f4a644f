"""`diagnose`: whether the members of a run's ensemble collude, on photos they were not trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from oodguard.core.collusion import CollusionReport
from oodguard.evaluation.evidence import options_of, prepare, test_photos
from oodguard.training.backbone.tail import tail_features
from oodguard.training.heads.collusion import diagnose
from oodguard.training.photos.again import photos_of_run
from oodguard.training.photos.division import label_numbers
from oodguard.training.progress import Reporter, Silent
from oodguard.training.run import load_run


def diagnose_run(folder: Path, *, data: Path | None = None, report: Reporter | None = None) -> CollusionReport:
    """Diagnose a run on its test photos; the generalisation gap is taken from the run's own record.

    data: where the photos of the run are now; None: where they were. Raises `InputError` where test photos are missing,
    or none were set aside.
    """
    report = report or Silent()
    run = load_run(folder)
    options = options_of(run.record)
    if data is not None:
        options = options.model_copy(update={"data": data})
    photos = photos_of_run(run.record, run.division, options)
    backbone, extractor = prepare(run, options)
    test = test_photos(run, photos, extractor, report)
    features = tail_features(backbone.tail, extractor.extract(test)[0])
    with torch.no_grad():
        logits = run.heads.members(features)
    found = diagnose(logits, torch.from_numpy(label_numbers(test, run.known)))
    before = run.record.diagnosis
    if before is None or before.generalisation_gap is None:
        return found
    at_training = before.ensemble_loss - before.generalisation_gap
    return found.model_copy(update={"generalisation_gap": found.ensemble_loss - at_training})
