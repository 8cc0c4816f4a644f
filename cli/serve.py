"""`oodguard serve`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

from cyclopts import Parameter

from oodguard.cli.positional import positional
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError
from oodguard.server.settings import ServeSettings

positional(ServeSettings, "bundle")


def serve(settings: Annotated[ServeSettings | None, Parameter(name="*")] = None) -> int:
    """Serve a bundle over HTTP.

    Post images to /predict; /docs describes every route. Metrics and administration have a port of their own.

    The server first verifies the bundle's files and judges its golden images; /health/ready turns green when the
    verdicts agree with the manifest. On SIGTERM the server finishes the requests it has admitted and exits; on a second
    SIGTERM it exits at once.

    Example: oodguard serve bundles/photos --port 8000
    """
    from oodguard.server import logs
    from oodguard.server.addresses import UNIX, listen, pair, port_of, written
    from oodguard.server.app import create_gateway
    from oodguard.server.descriptors import fitting, raise_limit
    from oodguard.server.gateway import run, yield_to_inference

    if settings is None:
        raise InputError("bundle is missing: name the folder written by export")
    with ExitStack() as taken:
        public = taken.enter_context(listen(settings.host, settings.port))
        flags = ("--admin-host", "--admin-port")
        private = taken.enter_context(listen(settings.admin_host, settings.admin_port, flags=flags))
        rpc = None
        if settings.grpc_port is not None:
            flags = ("--host", "--grpc-port")
            rpc = taken.enter_context(listen(settings.host, settings.grpc_port, flags=flags))
        # Threads inherit the scheduling policy, so it is set before any thread starts.
        yield_to_inference()
        files = raise_limit()
        fitted = fitting(settings, limit=files)
        gateway = create_gateway(fitted)
        scheme = "https" if settings.tls_cert else "http"
        url = written(settings.host, port_of(public), scheme=scheme)
        private_url = written(settings.admin_host, port_of(private), scheme="http")
        about, asked = f"docs: {url}/docs", url
        if settings.host.startswith(UNIX):
            about, asked = "a Unix socket", f"--unix-socket {settings.host.removeprefix(UNIX)} {scheme}://localhost"
        model = gateway.parts.serving.model
        manifest = model.manifest
        images = settings.samples or ((settings.bundle / manifest.golden[0].path,) if settings.bundle else ("IMAGE",))
        share = f"{100 * settings.shadow_share:g} % of the images"
        shadow = [f"shadow: {settings.shadow} judges {share}, for metrics only"] if settings.shadow else []
        key = " -H 'X-API-Key: KEY'" if gateway.parts.keys.needed else ""
        lines = [
            f"[bold]{manifest.name}[/] version {manifest.version}: {len(manifest.classes)} classes, "
            f"{len(manifest.scores)} scores, {model.runs_on}",
            *shadow,
            f"serving on {url} ({about}); metrics on {private_url}/metrics",
            *([f"gRPC on {pair(settings.host, port_of(rpc))} (Open Inference Protocol)"] if rpc else []),
            "try:",
            *(f"  curl -F image=@{image}{key} {asked}/predict" for image in images),
        ]
        Terminal(soft_wrap=True).print("\n".join(lines), highlight=False)
        logs.configure(level=settings.log_level, style=settings.log_format)
        if fitted.max_connections < settings.max_connections:
            logs.server.warning(
                "max_connections is %d instead of %d, because this process may open %d files; raise the hard limit "
                "(ulimit -Hn, LimitNOFILE) to take more connections",
                fitted.max_connections,
                settings.max_connections,
                files,
            )
        return run(gateway, public, private, rpc)
