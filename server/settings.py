"""Every serving option, once: flags, environment variables and config-file keys of `oodguard serve` come from here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from oodguard.training.preprocess import DEFAULT_LIMITS, ImageLimits


class ServeSettings(BaseModel):
    """What `oodguard serve` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path = Field(description="Bundle folder written by export.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the graph runs; auto: CUDA if present.")
    threads: int = Field(0, ge=0, le=256, description="ONNX Runtime threads an inference; 0: all cores.")
    decode_workers: int = Field(2, ge=1, le=64, description="Threads that decode images.")
    max_batch: int = Field(16, ge=1, le=1024, description="Most images in one inference; larger requests are split.")
    accept: float | None = Field(
        None, gt=0, lt=1, description="Target acceptance of ID images; default: the bundle's (0.95)."
    )
    top_k: int = Field(5, ge=1, le=1000, description="Classes listed in an answer, unless the request says.")
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Largest request body, in bytes.")
    max_files: int = Field(64, ge=1, le=10_000, description="Most images in one request.")
    max_image_bytes: int = Field(DEFAULT_LIMITS.max_bytes, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(DEFAULT_LIMITS.max_pixels, ge=1, description="Largest image, in pixels.")
    inference_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds an inference may take.")
    samples: tuple[Path, ...] = Field(
        (), description="Images for the curl lines printed at start; default: a golden image of the bundle."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "warning", description="How much is logged."
    )

    @property
    def limits(self) -> ImageLimits:
        """What one image may cost."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_pixels)
