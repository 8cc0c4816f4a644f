"""Every serving setting, once: the flags, environment variables and file keys of `oodguard serve` come from here."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from oodguard.core.preprocessing import DEFAULT_LIMITS, ImageLimits

ENV_PREFIX = "OODGUARD_SERVE_"
ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")
STORE_ADDRESS = re.compile(r"^(s3|gs|az)://[^\s/?#@]+(/[^\s?#]*)?$")
WEB_ADDRESS = re.compile(r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")
# What Triton decides in place of this server.
TRITONS_OWN = {"device", "tuning", "sessions", "threads", "max_batch", "max_delay"}


class ServeSettings(BaseSettings):
    """What `oodguard serve` takes.

    ```python
    settings = ServeSettings(bundle=Path("bundles/photos"), port=0)
    ```

    Arguments win over the environment (`OODGUARD_SERVE_PORT=9000`). A name that does not exist and two settings that
    contradict each other are errors (`ValidationError`).
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX)

    # What is served, and how.
    bundle: Path | None = Field(
        None, description="Bundle folder written by export; with --engine triton it may be left out."
    )
    engine: Literal["onnxruntime", "openvino", "triton"] | None = Field(
        None,
        description="What runs the graph; default: the tuning record's, or onnxruntime. openvino and triton need their "
        "extras.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the graph runs; auto: CUDA if present.")
    tuning: Path | None = Field(
        None,
        description="Record of `oodguard tune`; default: tuning.json in the bundle, if it fits this machine.",
    )
    sessions: int | None = Field(
        None, ge=1, le=64, description="Inferences run at once; default: the tuning record's, or one for each core."
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="Threads of one inference; default: the tuning record's, or 1."
    )
    max_batch: int | None = Field(
        None, ge=1, le=1024, description="Most images in one inference; default: the tuning record's, or 8."
    )
    max_delay: float = Field(
        0.002, ge=0, le=1, description="Seconds a batch waits to fill while another runs; never when all is idle."
    )
    decode_workers: int = Field(2, ge=1, le=64, description="Threads that decode images.")
    accept: float | None = Field(
        None, gt=0, lt=1, description="Target acceptance of ID images; default: the bundle's (0.95)."
    )
    top_k: int = Field(5, ge=1, le=1000, description="Classes listed in an answer, unless the request says.")
    samples: tuple[Path, ...] = Field(
        (), description="Images for the curl lines printed at start; default: a golden image of the bundle."
    )
    page: bool = Field(True, description="Show a page at /: try images, live traffic, the model card.")
    sample_dir: Path | None = Field(
        None,
        description="Folder that a share of the flagged images is kept in, for `oodguard review`; default: none.",
    )
    sample_store: str | None = Field(
        None,
        description="The same in an object store: s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix.",
    )
    sample_rate: float = Field(0.1, gt=0, le=1, description="Share of the flagged images that is kept.")
    sample_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Bytes in that place from which on none is kept."
    )
    class_drift: int = Field(
        200,
        ge=0,
        le=10_000,
        description="Most classes a model may have to be counted class by class for drift: 12 series each.",
    )
    watch: bool = Field(True, description="Reload when the bundle folder or the key file is replaced.")

    # Triton, where it runs the graph.
    triton_url: str | None = Field(
        None, description="HOST:PORT of Triton's gRPC service; several, with commas between, share the load."
    )
    triton_model: str | None = Field(None, description="The model's name in Triton; default: the bundle's.")
    triton_version: int | None = Field(
        None, ge=1, description="The model's version in Triton; default: the bundle's graph, or the newest."
    )
    triton_shared_memory: bool = Field(
        False, description="Hand images over in shared memory; for a Triton on the same machine."
    )
    triton_probe: float = Field(
        0.5,
        gt=0,
        le=60,
        description="Seconds between looks at an idle Triton; one that does not answer is looked at more often.",
    )
    triton_tls: bool = Field(False, description="Speak TLS with Triton.")
    triton_ca: Path | None = Field(None, description="PEM authorities Triton's certificate must come from.")
    triton_cert: Path | None = Field(None, description="PEM certificate to show Triton, with --triton-key.")
    triton_key: Path | None = Field(None, description="PEM private key of that certificate.")

    # Where it listens.
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    admin_host: str = Field("127.0.0.1", description="Address of the private port: /metrics, /admin, /health.")
    admin_port: int = Field(8001, ge=0, le=65535, description="The private port; 0 picks a free one.")
    tls_cert: Path | None = Field(None, description="PEM certificate chain; turns on TLS, with --tls-key.")
    tls_key: Path | None = Field(None, description="PEM private key.")
    tls_ca: Path | None = Field(None, description="PEM authorities; clients must then show a certificate of theirs.")

    # Who may call.
    auth: Literal["keys", "none"] | None = Field(
        None, description="keys: callers need an API key; none: anyone may call. May be left out on a loopback host."
    )
    key_file: Path | None = Field(None, description="File with one name:sha256 a line (see `oodguard key`).")
    key_hashes: str | None = Field(None, description="Keys as name:sha256, separated by commas, instead of a file.")

    # How much it takes on.
    max_queue: int = Field(128, ge=1, le=1_000_000, description="Images admitted and not yet answered; then 429.")
    max_queue_bytes: int = Field(256 * 1024 * 1024, ge=1, description="Bytes of request bodies held at once; then 429.")
    request_timeout: float = Field(10.0, gt=0, le=3600, description="Seconds a request may take; then 504.")
    max_request_timeout: float = Field(
        60.0, gt=0, le=3600, description="Largest timeout a caller may ask for with X-Request-Timeout-Ms, in seconds."
    )
    max_connections: int = Field(1024, ge=1, le=1_000_000, description="Open connections; more are refused with 429.")
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Largest request body, in bytes.")
    max_files: int = Field(64, ge=1, le=10_000, description="Most images in one request.")
    max_image_bytes: int = Field(DEFAULT_LIMITS.max_bytes, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(DEFAULT_LIMITS.max_pixels, ge=1, description="Largest image, in pixels.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Largest request head, in bytes.")
    header_timeout: float = Field(5.0, gt=0, le=300, description="Seconds a request head may take to arrive.")
    body_timeout: float = Field(15.0, gt=0, le=3600, description="Seconds a request body may take to arrive; then 408.")
    keep_alive: int = Field(30, ge=1, le=3600, description="Seconds an idle connection is kept open.")

    # When something is wrong, and at the end.
    stall_after: float = Field(
        0.9, gt=0, le=3600, description="Seconds one inference may take before readiness turns red."
    )
    dead_after: float = Field(
        30.0, gt=0, le=86400, description="Seconds one inference may take before liveness turns red."
    )
    drain_delay: float = Field(
        2.0, ge=0, le=600, description="Seconds of service after SIGTERM with readiness red, before the port closes."
    )
    drain_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds the admitted requests then have to finish.")
    traces_endpoint: str | None = Field(
        None,
        description="Address of an OpenTelemetry collector (OTLP over HTTP) that traces are sent to, as in "
        "http://localhost:4318; default: none.",
    )
    traces_share: float = Field(
        1.0, gt=0, le=1, description="Share of the requests that are traced where the caller does not decide."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "warning", description="How much is logged; info adds a line for each request."
    )
    log_format: Literal["json", "text"] = Field("json", description="One JSON object a line, or plain text.")

    @field_validator("triton_url")
    @classmethod
    def _are_addresses(cls, text: str | None) -> str | None:
        wrong = [part for part in (text or "").split(",") if not ADDRESS.match(part)] if text is not None else []
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not HOST:PORT of a gRPC service, as in localhost:8001")
        return text

    @field_validator("sample_store")
    @classmethod
    def _is_store(cls, text: str | None) -> str | None:
        if text is not None and not STORE_ADDRESS.match(text):
            raise ValueError(f"{text!r} is not an address as in s3://bucket/prefix")
        return text

    @field_validator("traces_endpoint")
    @classmethod
    def _is_web_address(cls, text: str | None) -> str | None:
        if text is not None and not WEB_ADDRESS.match(text):
            raise ValueError(f"{text!r} is not an address as in http://localhost:4318")
        return text

    @field_validator("tls_cert", "tls_key", "tls_ca", "key_file", "tuning", "triton_ca", "triton_cert", "triton_key")
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is not a file")
        return path

    @model_validator(mode="after")
    def _agree(self) -> ServeSettings:
        unknown = sorted(
            name
            for name in os.environ
            if name.startswith(ENV_PREFIX) and name[len(ENV_PREFIX) :].lower() not in type(self).model_fields
        )
        triton = self.engine == "triton"
        theirs = sorted(self.model_fields_set & TRITONS_OWN) if triton else []
        ours = sorted(name for name in self.model_fields_set if name.startswith("triton_"))
        contradictions = {
            "bundle is missing: name the folder written by export": self.bundle is None and not triton,
            "engine triton needs triton_url": triton and self.triton_url is None,
            "engine triton without a bundle needs triton_model": triton
            and self.bundle is None
            and self.triton_model is None,
            f"{theirs[0] if theirs else ''} and engine triton: Triton batches and runs the graph as its model "
            "repository says; see oodguard export --triton": bool(theirs),
            f"{ours[0] if ours else ''} is for engine triton": bool(ours) and not triton,
            "triton_ca, triton_cert and triton_key need triton_tls": bool(
                self.triton_ca or self.triton_cert or self.triton_key
            )
            and not self.triton_tls,
            "triton_cert and triton_key go together": (self.triton_cert is None) != (self.triton_key is None),
            f"{unknown[0] if unknown else ''} in the environment is not a setting": bool(unknown),
            "tls_cert and tls_key go together": (self.tls_cert is None) != (self.tls_key is None),
            "tls_ca needs tls_cert and tls_key": self.tls_ca is not None and self.tls_cert is None,
            "sample_dir and sample_store are two places; use one": bool(self.sample_dir and self.sample_store),
            "port and admin_port are the same": self.port == self.admin_port != 0,
            "max_files is larger than max_queue: such a request could never be admitted": self.max_files
            > self.max_queue,
            "max_body_bytes is larger than max_queue_bytes: such a request could never be admitted": self.max_body_bytes
            > self.max_queue_bytes,
            "request_timeout is larger than max_request_timeout": self.request_timeout > self.max_request_timeout,
            "stall_after is larger than dead_after": self.stall_after > self.dead_after,
            "key_file and key_hashes are two sources of keys; use one": bool(self.key_file and self.key_hashes),
            "auth=keys needs key_file or key_hashes": self.auth == "keys" and not (self.key_file or self.key_hashes),
            "auth=none and API keys contradict each other": self.auth == "none"
            and bool(self.key_file or self.key_hashes),
            f"{self.host} is reachable from other machines: give API keys (key_file), or say auth=none": self.auth
            is None
            and not (self.key_file or self.key_hashes)
            and not _is_loopback(self.host),
            "engine openvino runs on the CPU only": self.engine == "openvino" and self.device == "cuda",
        }
        for sentence, wrong in contradictions.items():
            if wrong:
                raise ValueError(sentence)
        return self

    @property
    def triton_addresses(self) -> tuple[str, ...]:
        """Every Triton server, once."""
        return tuple(dict.fromkeys((self.triton_url or "").split(","))) if self.triton_url else ()

    @property
    def limits(self) -> ImageLimits:
        """What one image may cost."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_pixels)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
