"""Where a bundle comes from: its training, and the photos that set its thresholds anew."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from oodguard.core.frozen import Frozen

# Of a model, of its version and of a source.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

SourceName = Annotated[str, Field(pattern=NAME)]


class Provenance(Frozen):
    """Where the graph comes from: enough to train it again."""

    oodguard: str
    created: str
    seed: int
    backbone: str
    weights_source: str
    weights_sha256: str
    data_fingerprint: str
    train_images: int
    calibration_images: int
    test_images: int | None = Field(None, description="those that the `metrics` of tests are of")
    versions: dict[str, str]
    options: dict[str, str | int | float | bool | None]
    metrics: dict[str, float]


class Recalibration(Frozen):
    """Where a calibration comes from that training did not make: trusted photos, and the manifest it was put into."""

    source: SourceName | None = Field(None, description="None: the calibration for requests that name no source.")
    created: str
    oodguard: str
    images: int = Field(ge=1)
    labelled: bool
    from_version: str
    from_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
