"""A class that was added to a bundle after training."""

from __future__ import annotations

from pydantic import Field

from oodguard.core.frozen import Frozen


class AddedClass(Frozen):
    """Where a class comes from that training did not see, and what was measured when it was added.

    right, passing: shares of its photos, each judged by rows that were fitted without it. calibrated: on how many
    photos the thresholds were set anew; null: they are those from before, and what share of the old classes' photos
    they accept now was not measured.
    """

    name: str
    created: str
    oodguard: str
    photos: int = Field(ge=1)
    right: float = Field(ge=0, le=1)
    passing: float = Field(ge=0, le=1)
    calibrated: int | None = Field(None, ge=1)
    max_error: float = Field(ge=0, description="of any score, the graph against its definition, on the gate's images")
    from_version: str
    from_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
