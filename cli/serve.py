"""`oodguard serve`."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from oodguard.server.settings import ServeSettings
from oodguard.training.errors import EnvironmentProblem


def serve(settings: Annotated[ServeSettings, Parameter(name="*")]) -> None:
    """Serve a bundle over HTTP: POST images to /predict, see /docs.

    The bundle's files are verified first, then its golden images are answered; /health/ready turns green when they
    agree with the manifest.

    Example: oodguard serve bundles/photos --port 8000
    """
    import uvicorn

    from oodguard.server.app import create_app

    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    listening = _listen(settings.host, settings.port)
    try:
        app = create_app(settings)
        port = listening.getsockname()[1]
        url = f"http://{'localhost' if settings.host in ('127.0.0.1', '0.0.0.0') else settings.host}:{port}"
        manifest, engine = app.state.service.manifest, app.state.service.engine
        images = settings.samples or (settings.bundle / manifest.golden[0].path,)
        lines = [
            f"[bold]{manifest.name}[/] version {manifest.version}: {len(manifest.classes)} classes, "
            f"{len(manifest.scores)} scores, {engine.name} on {engine.device}",
            f"serving on {url} (docs: {url}/docs)",
            "try:",
            *(f"  curl -F image=@{image} {url}/predict" for image in images),
        ]
        Console(soft_wrap=True).print("\n".join(lines), highlight=False)
        config = uvicorn.Config(app, log_level=settings.log_level, access_log=False, timeout_graceful_shutdown=10)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn drains, then raises the signal again for the handler it found: a drained server has not failed.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port first: a taken one is one sentence, not a traceback after the model was loaded."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as undo:
            listening = undo.enter_context(socket.socket(family))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            undo.pop_all()
    except OSError as error:
        raise EnvironmentProblem(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listening
