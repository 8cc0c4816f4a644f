"""Every serving setting, once: the flags, environment variables and file keys of `oodguard serve` come from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from oodguard.core.decoding import DECODING_BYTES
from oodguard.core.formats import DEFAULT_OPTION, FORMATS_HELP
from oodguard.core.preprocessing import DEFAULT_LIMITS, ImageLimits
from oodguard.core.provenance import NAME
from oodguard.core.signature import Trust
from oodguard.core.targets import AcceptOption, Asked, ConfidenceOption, CoverageOption, MaxErrorOption
from oodguard.core.verdict import DEFAULT_TOP_K
from oodguard.server.engines.registry import DEFAULT, ENGINES, Device, EngineName, one_of
from oodguard.server.settings_rules import ENV_PREFIX, broken_rule
from oodguard.server.settings_texts import TEXTS, limits_of, weights_of
from oodguard.server.tuning import MAX_BATCH, MAX_SESSIONS, MAX_THREADS


class ServeSettings(BaseSettings):
    """What `oodguard serve` takes.

    ```python
    settings = ServeSettings(bundle=Path("bundles/photos"), port=0)
    ```

    Arguments win over the environment (`OODGUARD_SERVE_PORT=9000`). A name that does not exist is an error
    (`ValidationError`), and so are two settings that contradict each other (`settings_rules`).
    """

    # An empty variable is one that is not set: as a path it would be the current folder.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_ignore_empty=True)

    # What is served, and how.
    bundle: Path | None = Field(
        None, description="Bundle folder written by export; may be left out with --engine triton."
    )
    engine: EngineName | None = Field(
        None,
        description=f"What runs the graph: {one_of(ENGINES)}; default: the tuning record's, or {DEFAULT}. Engines "
        f"other than {DEFAULT} need an extra.",
    )
    device: Device = Field("auto", description="Where the graph runs; auto: on CUDA if present, else on the CPU.")
    tuning: Path | None = Field(
        None,
        description="Record of `oodguard tune`; default: tuning.json in the bundle, if it was made for this graph and "
        "this machine.",
    )
    sessions: int | None = Field(
        None,
        ge=1,
        le=MAX_SESSIONS,
        description="Inferences that run at once; default: the tuning record's, or one per core.",
    )
    threads: int | None = Field(
        None, ge=1, le=MAX_THREADS, description="Threads of one inference; default: the tuning record's, or 1."
    )
    max_batch: int | None = Field(
        None, ge=1, le=MAX_BATCH, description="Maximum images in one inference; default: the tuning record's, or 8."
    )
    max_delay: float = Field(
        0.002,
        ge=0,
        le=1,
        description="Seconds a batch waits to fill while another runs; an idle engine starts at once.",
    )
    decode_workers: int = Field(
        2, ge=1, le=64, description="Threads that decode images; by default half as many as --sessions, at least 2."
    )
    workers: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        1,
        description="Processes that share the port, the inferences at once, the decoding threads and the queue; auto: "
        "one for every four cores.",
    )
    accept: AcceptOption = None
    confidence: ConfidenceOption = None
    coverage: CoverageOption = None
    max_error: MaxErrorOption = None
    top_k: int = Field(
        DEFAULT_TOP_K,
        ge=1,
        le=1000,
        description="Maximum classes listed in an answer, unless the request sets its own number.",
    )
    model_name: str | None = Field(
        None,
        pattern=NAME,
        description="Name under which answers and /v2 give the model, as the orchestrator knows it; default: the "
        "bundle's.",
    )
    samples: tuple[Path, ...] = Field(
        (),
        description="Images in the curl commands that the server prints at start; default: a golden image of the "
        "bundle.",
    )
    page: bool = Field(True, description="Serve a page at / to try images, watch the traffic and read the model card.")
    sample_dir: Path | None = Field(
        None,
        description="Folder in which to keep a share of the flagged images, for `oodguard review`; default: none.",
    )
    sample_store: str | None = Field(
        None,
        description="Object store in which to keep them instead: s3://bucket/prefix, gs://bucket/prefix or "
        "az://account/container/prefix.",
    )
    sample_rate: float = Field(0.1, gt=0, le=1, description="Share of the flagged images to keep.")
    sample_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Maximum bytes of kept images; beyond it the server keeps no more."
    )
    sample_webhook: str | None = Field(
        None,
        description="Address to which to POST a share of the flagged images, each with its verdict and signed, also "
        "beside a folder or object store; default: none.",
    )
    sample_webhook_secret: Path | None = Field(
        None,
        description="File with the secret that signs them: whsec_ and the base64 of 24 to 64 random bytes; one more "
        "line for each further secret, while you replace it.",
    )
    shadow: Path | None = Field(
        None,
        description="Second bundle that judges a share of the images beside the first, for metrics only; default: "
        "none.",
    )
    shadow_share: float = Field(0.1, gt=0, le=1, description="Share of the answered images that the shadow judges.")
    shadow_max_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Maximum bytes of images that wait for the shadow; it misses the others."
    )
    class_drift: int = Field(
        200,
        ge=0,
        le=10_000,
        description="Maximum number of classes for which the server also counts drift per class, with 12 series for "
        "each.",
    )
    watch: bool = Field(True, description="Reload the bundle and the key file when you replace them.")
    watch_interval: float = Field(
        2.0,
        ge=0.1,
        le=3600,
        description="Seconds between looks at both where the file system reports no changes, as NFS does not.",
    )

    # Triton, where it runs the graph.
    triton_url: str | None = Field(
        None, description="HOST:PORT of Triton's gRPC service; list several, separated by commas, to share the load."
    )
    triton_model: str | None = Field(None, description="Name of the model in Triton; default: the bundle's name.")
    triton_version: int | None = Field(
        None,
        ge=1,
        description="Version of the model in Triton; default: the version with the bundle's graph, or the newest.",
    )
    triton_shared_memory: bool = Field(
        False, description="Pass images in shared memory; Triton must run on the same machine."
    )
    triton_probe: float = Field(
        0.5,
        gt=0,
        le=60,
        description="Seconds between checks of an idle Triton; the server checks a Triton that does not answer more "
        "often.",
    )
    triton_tls: bool = Field(False, description="Connect to Triton with TLS.")
    triton_ca: Path | None = Field(
        None, description="PEM file of the authorities that must have signed Triton's certificate."
    )
    triton_cert: Path | None = Field(
        None, description="PEM certificate to present to Triton, together with --triton-key."
    )
    triton_key: Path | None = Field(None, description="PEM private key of that certificate.")

    # Where it listens.
    host: str = Field(
        "127.0.0.1",
        description="Address on which to listen; 0.0.0.0 for all. unix:/run/og.sock listens on a Unix socket, and then "
        "--port counts for nothing.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port on which to listen; 0 picks a free one.")
    admin_host: str = Field(
        "127.0.0.1", description="Address of the private port, which serves /metrics, /admin and /health."
    )
    admin_port: int = Field(8001, ge=0, le=65535, description="Private port; 0 picks a free one.")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the Open Inference Protocol over gRPC, on the address of the public port; 0 picks a free "
        "one; default: none. Needs the extra grpc.",
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain; together with --tls-key it turns on TLS.")
    tls_key: Path | None = Field(None, description="PEM private key of that certificate.")
    tls_ca: Path | None = Field(
        None, description="PEM file of authorities; clients must then show a certificate that one of them signed."
    )

    root_path: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9._~-]+)+)?$",
        description="Path under which a proxy publishes the server, as in /guard, whether or not the proxy strips it.",
    )

    # Who may call.
    auth: Literal["keys", "none"] | None = Field(
        None, description="keys: callers need an API key; none: anyone may call; default on a loopback host: none."
    )
    trust: Path | None = Field(
        None,
        description="Public keys (PEM, Ed25519): only bundles signed with one of them are served (see `oodguard "
        "sign`); default: any bundle.",
    )
    key_file: Path | None = Field(
        None, description="File with one name:sha256 or name:sha256:admin per line (see `oodguard key`)."
    )
    key_hashes: str | None = Field(None, description="Keys as name:sha256, separated by commas, instead of a file.")
    host_names: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$",
        description="More names of a server on the loopback without keys, as a proxy passes them on; separated by "
        "commas. It refuses others: a web page could have made them up.",
    )
    cors_origins: str | None = Field(
        None,
        description="Origins whose pages may call the server, as in https://shop.example, separated by commas; "
        "default: only its own page.",
    )

    # How much it takes on.
    max_queue: int = Field(
        128, ge=1, le=1_000_000, description="Maximum images admitted and not yet answered; beyond it requests get 429."
    )
    max_caller_queue: int | None = Field(
        None, ge=1, description="Maximum images of one caller among them; default: all of them while nobody else calls."
    )
    key_weights: str | None = Field(
        None,
        description="Shares of the server by key, as in alice=4,bob=0.5; the weight of every other caller is 1.",
    )
    max_queue_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="Maximum bytes of request bodies held at once; beyond it requests get 429; lowered by default "
        "where the process may take little memory.",
    )
    request_timeout: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds from the end of a request's body to its answer; then the request gets 504. Waiting, "
        "decoding and inference count; the upload has --body-timeout.",
    )
    max_request_timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Longest --request-timeout, in seconds, that a caller may ask for with X-Request-Timeout-Ms.",
    )
    max_connections: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Maximum open connections; one more gets 429; lowered where the process may open too few files.",
    )
    max_body_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1,
        description="Maximum size of a request body, in bytes; of a compressed one when it is decompressed.",
    )
    max_files: int = Field(64, ge=1, le=10_000, description="Maximum images in one request.")
    max_image_bytes: int = Field(
        DEFAULT_LIMITS.max_bytes, ge=1, description="Maximum size of an encoded image, in bytes."
    )
    max_pixels: int = Field(DEFAULT_LIMITS.max_pixels, ge=1, description="Maximum size of an image, in pixels.")
    max_decode_work: int = Field(
        DEFAULT_LIMITS.max_work,
        ge=1,
        description="Maximum work of decoding an image: its pixels times the passes in its file (usually 1 to 12).",
    )
    max_decode_bytes: int = Field(
        DECODING_BYTES,
        ge=1,
        description="Maximum memory of all large images that are being decoded, in bytes; others wait, and one that "
        "would take more by itself is refused; lowered by default where the process may take little memory.",
    )
    formats: str = Field(DEFAULT_OPTION, description=FORMATS_HELP)
    max_json_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Maximum size of a JSON body, or of the JSON part of one, in bytes."
    )
    max_json_values: int = Field(
        2_000_000,
        ge=1,
        description="Maximum values in the JSON of a request under /v2, where tensors may be numbers in JSON.",
    )
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Maximum size of a request head, in bytes.")
    header_timeout: float = Field(
        5.0, gt=0, le=300, description="Seconds a request head may take to arrive; then the request gets 408."
    )
    body_timeout: float = Field(
        15.0,
        gt=0,
        le=3600,
        description="Seconds a request body may take to arrive, from the end of its head; then the request gets 408. "
        "A slow network needs more: 2 MB at 1 Mbit/s take 16 s.",
    )
    write_timeout: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds a caller may leave an answer unread; then its connection ends.",
    )
    keep_alive: int = Field(
        75,
        ge=1,
        le=3600,
        description="Seconds for which the server keeps an idle connection open; longer than the proxy in front does.",
    )

    # When something is wrong, and at the end.
    stall_after: float = Field(
        0.9, gt=0, le=3600, description="Seconds one inference may take before readiness turns red."
    )
    dead_after: float = Field(
        30.0, gt=0, le=86400, description="Seconds one inference may take before liveness turns red."
    )
    drain_delay: float = Field(
        2.0,
        ge=0,
        le=600,
        description="Seconds after SIGTERM in which the server still takes requests, with readiness red, before it "
        "closes the port.",
    )
    drain_timeout: float = Field(
        30.0, gt=0, le=7200, description="Seconds that the admitted requests then have to finish."
    )
    traces_endpoint: str | None = Field(
        None,
        description="Address of an OpenTelemetry collector (OTLP over HTTP) to send traces to, as in "
        "http://localhost:4318; default: none.",
    )
    traces_share: float = Field(1.0, gt=0, le=1, description="Share of requests to trace, unless the caller decides.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "warning", description="How much to log; info adds one line per request."
    )
    log_format: Literal["json", "text"] = Field("json", description="One JSON object per line, or plain text.")

    @field_validator(*TEXTS)
    @classmethod
    def _is_written_well(cls, text: str | None, field: ValidationInfo) -> str | None:
        return None if text is None else TEXTS[field.field_name or ""](text)

    @field_validator(
        *("tls_cert", "tls_key", "tls_ca", "key_file", "trust", "tuning", "triton_ca", "triton_cert", "triton_key"),
        "sample_webhook_secret",
    )
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is not a file")
        return path

    @model_validator(mode="after")
    def _agree(self) -> ServeSettings:
        broken = broken_rule(self)
        if broken:
            raise ValueError(broken)
        return self

    @property
    def triton_addresses(self) -> tuple[str, ...]:
        """Every Triton server, once."""
        return tuple(dict.fromkeys((self.triton_url or "").split(","))) if self.triton_url else ()

    @property
    def origins(self) -> tuple[str, ...]:
        """Every origin whose pages may call, once."""
        return tuple(dict.fromkeys(self.cors_origins.split(","))) if self.cors_origins else ()

    @property
    def weights(self) -> dict[str, float]:
        """The weights of callers by the name of their key."""
        return weights_of(self.key_weights)

    @property
    def asked(self) -> Asked:
        """The targets in place of the bundle's."""
        return Asked(accept=self.accept, confidence=self.confidence, coverage=self.coverage, max_error=self.max_error)

    @property
    def trusted(self) -> Trust | None:
        """The keys one of which must have signed a bundle; None: any bundle will do. Raises as `Trust.read` does."""
        return None if self.trust is None else Trust.read(self.trust)

    @property
    def limits(self) -> ImageLimits:
        """What one image may cost."""
        return limits_of(self.max_image_bytes, self.max_pixels, self.max_decode_work, self.formats)
