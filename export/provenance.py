"""What a manifest says of where its graph comes from."""

from __future__ import annotations

from datetime import UTC, datetime

from oodguard.core.provenance import Provenance
from oodguard.training.record import RunRecord


def provenance(record: RunRecord) -> Provenance:
    """Where a graph of this run comes from."""
    return Provenance(
        oodguard=record.oodguard,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=record.seed,
        backbone=record.backbone.name,
        weights_source=record.backbone.source,
        weights_sha256=record.weights_sha256,
        data_fingerprint=record.data_fingerprint,
        train_images=record.splits.train,
        calibration_images=record.splits.calibration,
        test_images=record.splits.test,
        versions=record.versions,
        options=record.options,
        metrics=record.metrics,
    )
