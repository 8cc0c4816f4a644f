"""Open files: how many this process may have, and how many connections fit."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from oodguard.server.settings import ServeSettings

# Connections of the private port: probes, scrapes and administration.
PRIVATE_CONNECTIONS = 64
# What else the server opens: a new bundle's files, Triton, a collector, samples, and connections that it refuses.
OTHER_FILES = 128


def raise_limit() -> int:
    """Raise the process's limit of open files as far as it may, and return it.

    Container runtimes start programs with a soft limit of 1,024, which is there for programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A kernel may refuse what the hard limit promises.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


def opened() -> int:
    """How many files the process has open now."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return sum(1 for _ in Path(folder).iterdir())
    return 0


def fitting(settings: ServeSettings, *, limit: int) -> ServeSettings:
    """The settings with `max_connections` lowered to what `limit` open files leave for the public port.

    The private port's connections and the server's other files come first, so that probes are answered however many
    callers hold a connection.
    """
    room = max(1, limit - opened() - PRIVATE_CONNECTIONS - OTHER_FILES)
    if limit == resource.RLIM_INFINITY or settings.max_connections <= room:
        return settings
    return settings.model_copy(update={"max_connections": room})
