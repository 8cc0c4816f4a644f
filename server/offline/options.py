"""Every option of `oodguard score`, once: flags, environment variables and config-file keys are made from this."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from oodguard.core.formats import DEFAULT_OPTION, FORMATS_HELP, formats_named
from oodguard.core.frozen import Frozen
from oodguard.core.images import OWN_LIMITS
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.targets import AcceptOption, Asked, ConfidenceOption, CoverageOption, MaxErrorOption
from oodguard.server.engines.registry import DEFAULT, LOCAL, Device, LocalEngineName, one_of
from oodguard.server.settings_texts import limits_of

OUT_SUFFIXES = (".parquet", ".csv", ".jsonl")


class ScoreOptions(Frozen):
    """What `oodguard score` takes.

    ```python
    ScoreOptions(bundle=Path("bundles/photos"), source="photos", out=Path("results.parquet"))
    ```
    """

    bundle: Path = Field(description="Bundle folder written by export.")
    source: str = Field(
        description="Folder, image, list of paths (.txt, one per line), zip, tar or Parquet file of images; or a "
        "pattern of these, such as 'shards/{000..127}.tar' or 'shards/*.tar'."
    )
    out: Path = Field(description="File to write: .parquet, .csv or .jsonl.")
    accept: AcceptOption = None
    calibration: str | None = Field(
        None,
        description="Source of the bundle whose calibration judges, such as a camera (see oodguard recalibrate); "
        "default: the bundle's own.",
    )
    confidence: ConfidenceOption = None
    coverage: CoverageOption = None
    max_error: MaxErrorOption = None
    fdr: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="False discovery rate: name strangers so that on average at most this share of those named is in "
        "distribution (Benjamini-Hochberg over all images); adds the columns p_value and stranger_at_fdr.",
    )
    explain: bool = Field(
        False, description="Add columns: which family of scores decided, and the nearest training photos."
    )
    trust: Path | None = Field(
        None, description="Public keys (PEM) one of which must have signed the bundle (see oodguard sign)."
    )
    overwrite: bool = Field(False, description="Replace an existing result.")
    restart: bool = Field(False, description="Discard what an interrupted run has finished and begin again.")
    ray: str | None = Field(
        None,
        description="Score on Ray: 'local' starts Ray on this machine, 'auto' or host:port joins a cluster.",
    )
    ray_workers: int | None = Field(
        None, ge=1, le=10_000, description="Ray workers, each with its own copy of the bundle; default: as many as fit."
    )
    engine: LocalEngineName | None = Field(
        None,
        description=f"What runs the graph: {one_of(LOCAL)}; default: the tuning record's, or {DEFAULT}.",
    )
    device: Device = Field(
        "auto", description="Where the graph runs; auto: CUDA if present. On Ray, cuda reserves one GPU per worker."
    )
    tuning: Path | None = Field(
        None, description="Record of `oodguard tune`; default: tuning.json in the bundle, if it fits this machine."
    )
    sessions: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Inferences that run at once; default: the tuning record's, or one per core; on Ray, 1 per worker.",
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="Threads of one inference; default: the tuning record's, or 1."
    )
    batch: int | None = Field(
        None, ge=1, le=1024, description="Maximum images in one inference; default: the tuning record's, or 8."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Threads that read and decode images; default: sessions + 1.",
    )
    part_size: int = Field(
        512, ge=1, le=1_000_000, description="Images per part; an interrupted run computes the parts under way again."
    )
    max_image_bytes: int = Field(OWN_LIMITS.max_bytes, ge=1, description="Maximum bytes of an encoded image.")
    max_pixels: int = Field(OWN_LIMITS.max_pixels, ge=1, description="Maximum pixels of an image.")
    max_decode_work: int = Field(
        OWN_LIMITS.max_work, ge=1, description="Maximum work of decoding an image: its pixels times its scans."
    )

    formats: str = Field(DEFAULT_OPTION, description=FORMATS_HELP)
    column: str | None = Field(
        None, description="Column of images in a Parquet file that has several; default: the only one."
    )

    @field_validator("formats")
    @classmethod
    def _names_formats(cls, text: str) -> str:
        formats_named(text)
        return text

    @field_validator("out")
    @classmethod
    def _has_a_format(cls, path: Path) -> Path:
        if path.suffix.lower() not in OUT_SUFFIXES:
            raise ValueError(f"the name must end in {', '.join(OUT_SUFFIXES)}")
        return path

    @field_validator("ray")
    @classmethod
    def _is_no_client(cls, address: str | None) -> str | None:
        if address is not None and "://" in address:
            raise ValueError(
                "give 'local', 'auto' or the host:port of the head node; Ray Data needs a node, not a client"
            )
        return address

    @property
    def max_batch(self) -> int | None:
        """`batch` under the name that a plan uses."""
        return self.batch

    @property
    def asked(self) -> Asked:
        """The targets in place of the bundle's."""
        return Asked(accept=self.accept, confidence=self.confidence, coverage=self.coverage, max_error=self.max_error)

    @property
    def limits(self) -> ImageLimits:
        """The limits of one image."""
        return limits_of(self.max_image_bytes, self.max_pixels, self.max_decode_work, self.formats)
