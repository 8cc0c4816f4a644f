"""`oodguard serve`."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import grouped
from oodguard.cli.inputs import expect
from oodguard.cli.positional import positional
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError
from oodguard.server.settings import ServeSettings
from oodguard.server.settings_rules import NO_BUNDLE

if TYPE_CHECKING:
    from oodguard.server.workers.messages import ModelNews

positional(ServeSettings, "bundle")
grouped(
    ServeSettings,
    ("bundle", "port", "host", "auth", "key_file", "accept", "sample_dir", "log_level"),
    {
        "Verdicts": ("confidence", "coverage", "max_error", "top_k", "model_name"),
        "Speed": (
            *(
                "engine",
                "device",
                "tuning",
                "sessions",
                "threads",
                "max_batch",
                "max_delay",
                "decode_workers",
                "workers",
            ),
        ),
        "Flagged images": (
            *("sample_rate", "sample_max_bytes", "sample_store", "sample_webhook", "sample_webhook_secret"),
        ),
        "Shadow, drift and reload": (
            *("shadow", "shadow_share", "shadow_max_bytes", "class_drift", "watch", "watch_interval"),
        ),
        "Page": ("page", "samples"),
        "Where it listens": (
            *(
                "admin_host",
                "admin_port",
                "grpc_port",
                "tls_cert",
                "tls_key",
                "tls_ca",
                "root_path",
                "cors_origins",
                "host_names",
            ),
        ),
        "Keys and trust": ("key_hashes", "key_weights", "trust"),
        "Limits": (
            *("max_queue", "max_queue_bytes", "request_timeout", "max_request_timeout", "max_connections"),
            *("max_body_bytes", "max_files", "max_image_bytes", "max_pixels", "max_header_bytes", "header_timeout"),
            *("body_timeout", "write_timeout", "keep_alive", "max_caller_queue", "max_json_bytes", "max_json_values"),
            *("max_decode_work", "max_decode_bytes", "formats"),
        ),
        "Health and the end": ("stall_after", "dead_after", "drain_delay", "drain_timeout"),
        "Logs and traces": ("log_format", "traces_endpoint", "traces_share"),
        "Triton": (
            *("triton_url", "triton_model", "triton_version", "triton_shared_memory", "triton_probe"),
            *("triton_tls", "triton_ca", "triton_cert", "triton_key"),
        ),
    },
)


def serve(settings: Annotated[ServeSettings | None, Parameter(name="*")] = None) -> int:
    """Serve a bundle over HTTP.

    Post images to /predict; /docs describes every route. Metrics and administration have a port of their own.

    The server first verifies the bundle's files and judges its golden images; /health/ready turns green when the
    verdicts agree with the manifest. On SIGTERM the server finishes the requests it has admitted and exits; on a second
    SIGTERM it exits at once.

    Example: oodguard serve bundles/photos --port 8000
    """
    if settings is None:
        raise InputError(NO_BUNDLE)
    # A shadow bundle may come later.
    shadow_bundle = settings.shadow if settings.shadow is not None and settings.shadow.exists() else None
    for path, flag in ((settings.bundle, ""), (shadow_bundle, "--shadow")):
        if path is not None:
            expect(path, Artefact.BUNDLE, flag=flag)
    for path in settings.samples:
        expect(path, Artefact.IMAGES, flag="--samples")
    from oodguard.core.allowance import ResourceAllowance
    from oodguard.server.addresses import listen, share_port
    from oodguard.server.allowed import allowed, warn_of_memory
    from oodguard.server.workers.share import workers_of

    settings = allowed(settings, ResourceAllowance.read())
    workers = workers_of(settings)
    with ExitStack() as taken:
        public = taken.enter_context(listen(settings.host, settings.port))
        flags = ("--admin-host", "--admin-port")
        private = taken.enter_context(listen(settings.admin_host, settings.admin_port, flags=flags))
        rpc = None
        if settings.grpc_port is not None:
            flags = ("--host", "--grpc-port")
            rpc = taken.enter_context(listen(settings.host, settings.grpc_port, flags=flags))
        if workers == 1:
            return _serve_alone(settings, public, private, rpc)
        if rpc is not None:
            rpc = taken.enter_context(share_port(rpc))

        from oodguard.server import logs
        from oodguard.server.workers.fleet import Fleet

        fleet = Fleet(settings, workers, public, private)

        def announce(news: ModelNews) -> None:
            sample = Path(news.sample) if news.sample else None
            about = ServedAbout(
                news.name,
                news.version,
                len(news.labels),
                len(news.scores),
                f"{workers} workers, each {news.runs_on}",
                sample,
                fleet.keys_needed,
            )
            _announce(settings, about, public, private, rpc)
            logs.configure(level=settings.log_level, style=settings.log_format)
            warn_of_memory(settings, ResourceAllowance.read())

        return fleet.run(announce, grpc=rpc.getsockname()[:2] if rpc else None)


def _serve_alone(
    settings: ServeSettings, public: socket.socket, private: socket.socket, rpc: socket.socket | None
) -> int:
    """Serve in this process."""
    from oodguard.core.allowance import ResourceAllowance
    from oodguard.server import logs
    from oodguard.server.allowed import warn_of_memory
    from oodguard.server.app import create_gateway
    from oodguard.server.descriptors import fitting, raise_limit
    from oodguard.server.gateway import run, yield_to_inference

    # Threads inherit the scheduling policy, so it is set before any thread starts.
    yield_to_inference()
    files = raise_limit()
    fitted = fitting(settings, limit=files)
    gateway = create_gateway(fitted)
    model = gateway.parts.serving.model
    manifest = model.manifest
    about = ServedAbout(
        manifest.name,
        manifest.version,
        len(manifest.classes),
        len(manifest.scores),
        model.runs_on,
        settings.bundle / manifest.golden[0].path if settings.bundle else None,
        gateway.parts.keys.needed,
    )
    _announce(settings, about, public, private, rpc)
    logs.configure(level=settings.log_level, style=settings.log_format)
    warn_of_memory(settings, ResourceAllowance.read())
    if fitted.max_connections < settings.max_connections:
        logs.server.warning(
            "--max-connections is %d instead of %d, because this process may open %d files; raise the hard limit "
            "(ulimit -Hn, LimitNOFILE) to take more connections",
            fitted.max_connections,
            settings.max_connections,
            files,
        )
    return run(gateway, public, private, rpc)


@dataclass(frozen=True)
class ServedAbout:
    """What the first lines say of the model: `sample` is an image to try."""

    name: str
    version: str
    classes: int
    scores: int
    runs_on: str
    sample: Path | None
    keys_needed: bool


def _announce(
    settings: ServeSettings,
    about: ServedAbout,
    public: socket.socket,
    private: socket.socket,
    rpc: socket.socket | None,
) -> None:
    """Print what is served and where, and commands to try."""
    from oodguard.server.addresses import UNIX, pair, port_of, written

    scheme = "https" if settings.tls_cert else "http"
    url = written(settings.host, port_of(public), scheme=scheme)
    private_url = written(settings.admin_host, port_of(private), scheme="http")
    docs, asked = f"docs: {url}/docs", url
    if settings.host.startswith(UNIX):
        docs, asked = "a Unix socket", f"--unix-socket {settings.host.removeprefix(UNIX)} {scheme}://localhost"
    images = settings.samples or ((about.sample,) if about.sample else ("IMAGE",))
    share = f"{100 * settings.shadow_share:g} % of the images"
    shadow = [f"shadow: {settings.shadow} judges {share}, for metrics only"] if settings.shadow else []
    key = " -H 'X-API-Key: KEY'" if about.keys_needed else ""
    lines = [
        f"[bold]{about.name}[/] version {about.version}: {about.classes} classes, {about.scores} scores, "
        f"{about.runs_on}",
        *shadow,
        f"serving on {url} ({docs}); metrics on {private_url}/metrics",
        *([f"gRPC on {pair(settings.host, port_of(rpc))} (Open Inference Protocol)"] if rpc else []),
        "try:",
        *(f"  curl -F image=@{image}{key} {asked}/predict" for image in images),
    ]
    Terminal(soft_wrap=True).print("\n".join(lines), highlight=False)
