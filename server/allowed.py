"""Defaults of settings that follow from what the process may use of the machine."""

from __future__ import annotations

from typing import Any

from oodguard.core.allowance import ResourceAllowance
from oodguard.core.decoding import DECODING_BYTES, least_bytes
from oodguard.server.logs import server as log
from oodguard.server.settings import ServeSettings
from oodguard.server.workers.share import workers_of

# Program, libraries, and a model of the usual size, without what requests take; another model beside it in a reload.
PROGRAM_BYTES = 400 * 1024 * 1024
# Shares of what is left: for the bodies of requests, and for pictures that are being decoded.
QUEUE_SHARE, DECODING_SHARE = 4, 2
MOST_DECODERS = 64


def allowed(settings: ServeSettings, allowance: ResourceAllowance) -> ServeSettings:
    """The settings with defaults that fit; what was given stays as it is.

    decode_workers: half as many as inferences at once, at least two: decoding takes less than half of what the graph
    does.
    max_queue_bytes, max_decode_bytes: lowered where a quarter and a half of the memory that the program leaves are
    less, but never below what the largest request and the largest image need. A log line says where that does not fit.
    """
    at_once = settings.sessions or allowance.cores
    changes: dict[str, Any] = {"decode_workers": min(max(2, at_once // 2), MOST_DECODERS)}
    if allowance.memory is not None:
        left = max(0, allowance.memory - PROGRAM_BYTES * workers_of(settings))
        bodies, image = settings.max_body_bytes, least_bytes(settings.max_pixels)
        changes["max_queue_bytes"] = max(bodies, min(settings.max_queue_bytes, left // QUEUE_SHARE))
        changes["max_decode_bytes"] = max(image, min(DECODING_BYTES, left // DECODING_SHARE))
    return settings.model_copy(
        update={name: value for name, value in changes.items() if name not in settings.model_fields_set}
    )


def warn_of_memory(settings: ServeSettings, allowance: ResourceAllowance) -> None:
    """Write a line where requests that the settings allow may take more memory than there is."""
    needed = PROGRAM_BYTES * workers_of(settings) + settings.max_queue_bytes + settings.max_decode_bytes
    if allowance.memory is not None and needed > allowance.memory:
        log.warning(
            "requests may take the server to %d MiB, and it may have %d: lower --max-pixels, --max-body-bytes, "
            "--max-decode-bytes or --max-queue-bytes, or raise its limit of memory",
            needed >> 20,
            allowance.memory >> 20,
        )
