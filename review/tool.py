"""The tool at work: the page served on this machine until it is stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from oodguard.core.allowance import cores
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.manifest import load_manifest
from oodguard.core.thumbnails import Thumbnails
from oodguard.review.app import create_app
from oodguard.review.look_alikes import LookAlikes
from oodguard.review.mark_book import MarkBook
from oodguard.review.measures import ByLook, Measure
from oodguard.review.pictures import FlaggedPictures
from oodguard.review.session import ReviewSession

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Opened:
    """A session that waits for a browser: its address, which lets in who has it, and what it began with."""

    url: str
    pictures: int
    marked: int
    unreadable: int
    groups_by: str


@contextlib.contextmanager
def open_session(
    folder: Path, marks: Path, *, bundle: Path | None = None, cache: Path | None = None
) -> Iterator[tuple[ReviewSession, LookAlikes]]:
    """The session of a folder, with its file of marks held.

    bundle: groups pictures by its feature, and shows the training photos nearest to them. Raises `InputError` and
    `EnvironmentProblem` as `FlaggedPictures`, `MarkBook` and `load_manifest` do.
    """
    measure: Measure = ByLook()
    classes: tuple[str, ...] = ()
    with ExitStack() as stack:
        thumbnails = None
        if bundle is not None:
            from oodguard.review.features import ByFeature

            manifest = load_manifest(bundle)
            # One core stays for the page.
            measure = ByFeature(bundle, manifest, threads=max(1, cores() - 1))
            classes = manifest.classes
            if manifest.thumbnails is not None:
                thumbnails = Thumbnails(bundle / manifest.thumbnails)
                stack.callback(thumbnails.close)
        pictures = FlaggedPictures(folder)
        book = stack.enter_context(MarkBook(marks))
        alike = LookAlikes(pictures, measure, cache=cache)
        stack.callback(alike.close)
        yield ReviewSession(pictures, book, alike, classes=classes, thumbnails=thumbnails), alike


def serve(
    folder: Path,
    marks: Path,
    *,
    port: int = 0,
    bundle: Path | None = None,
    cache: Path | None = None,
    browse: bool = False,
    ready: Callable[[Opened], None],
) -> tuple[int, int]:
    """Serve the page to this machine alone, until somebody stops it; how many of how many pictures are marked then.

    port: 0 for any that is free. browse: open a browser. ready: is told the address. Raises as `open_session` does, and
    `EnvironmentProblem` for a port that is taken.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(port))
        session, alike = stack.enter_context(open_session(folder, marks, bundle=bundle, cache=cache))
        token, ticket = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        taken = listening.getsockname()[1]
        app = create_app(session, token=token, ticket=ticket, port=taken, workers=min(4, cores()))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=3
        )
        pictures = session.pictures
        ready(
            Opened(
                url=f"http://{HOST}:{taken}/{token}/",
                pictures=len(pictures),
                marked=len(session.marks()["marks"]),
                unreadable=len(pictures.unreadable),
                groups_by=alike.found.rule,
            )
        )
        alike.start()
        if browse and _has_browser():
            # Other users of this machine see what a browser was told to open: this address works once.
            webbrowser.open(f"http://{HOST}:{taken}/{ticket}/")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
        return len(session.marks()["marks"]), len(pictures)


def _listen(port: int) -> socket.socket:
    """Raises `EnvironmentProblem`."""
    listening = socket.socket(socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        # A browser that comes before the server waits.
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise EnvironmentProblem(
            f"cannot listen on {HOST} port {port}: {error.strerror or error}; choose another with --port"
        ) from None
    return listening


def _has_browser() -> bool:
    """Whether a browser has a screen: one for text would take this terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
