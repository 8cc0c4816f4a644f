"""`oodguard serve`."""

from __future__ import annotations

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
    from oodguard.server.app import create_gateway
    from oodguard.server.descriptors import fitting, raise_limit
    from oodguard.server.gateway import listen, run, yield_to_inference

    if settings is None:
        raise InputError("bundle is missing: name the folder written by export")
    flags = ("--admin-host", "--admin-port")
    with (
        listen(settings.host, settings.port) as public,
        listen(settings.admin_host, settings.admin_port, flags=flags) as private,
    ):
        # Threads inherit the scheduling policy, so it is set before any thread starts.
        yield_to_inference()
        files = raise_limit()
        fitted = fitting(settings, limit=files)
        gateway = create_gateway(fitted)
        scheme = "https" if settings.tls_cert else "http"
        shown = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0") else settings.host
        url = f"{scheme}://{shown}:{public.getsockname()[1]}"
        private_url = f"http://{settings.admin_host}:{private.getsockname()[1]}"
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
            f"serving on {url} (docs: {url}/docs); metrics on {private_url}/metrics",
            "try:",
            *(f"  curl -F image=@{image}{key} {url}/predict" for image in images),
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
        return run(gateway, public, private)
