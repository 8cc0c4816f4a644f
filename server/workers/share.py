"""How many workers serve, and what each of them takes on of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodguard.core.allowance import cores
from oodguard.core.manifest import Manifest
from oodguard.server.settings import ServeSettings
from oodguard.server.tuning import EnginePlan, plan_for

# One process keeps so many cores busy: of the 10 ms that an image takes of a core, 2.5 hold Python's lock.
CORES_OF_ONE = 4


def workers_of(settings: ServeSettings) -> int:
    """How many processes serve."""
    return max(1, cores() // CORES_OF_ONE) if settings.workers == "auto" else settings.workers


def share_of(settings: ServeSettings, workers: int) -> ServeSettings:
    """The settings of one worker of several.

    Each takes an equal part of the inferences at once, of the threads that decode, of connections and of the queue, but
    always what the largest request needs. Decoded bytes and sampled bytes are counted together, so they stay whole.
    Only the fleet looks at files.
    """
    largest = settings.max_files

    def part(whole: int, least: int = 1) -> int:
        return max(-(-whole // workers), least)

    changes: dict[str, Any] = {
        "workers": workers,
        "watch": False,
        "decode_workers": part(settings.decode_workers),
        "max_connections": part(settings.max_connections),
        "max_queue": part(settings.max_queue, largest),
        "max_queue_bytes": part(settings.max_queue_bytes, settings.max_body_bytes),
    }
    if settings.max_caller_queue is not None:
        changes["max_caller_queue"] = part(settings.max_caller_queue, largest)
    return settings.model_copy(update=changes)


def plan_of(settings: ServeSettings, manifest: Manifest) -> EnginePlan:
    """How the engine of this process is run: a worker has its part of the inferences at once."""
    plan = plan_for(settings, manifest)
    workers = 1 if settings.workers == "auto" else settings.workers
    if workers == 1:
        return plan
    return plan.model_copy(update={"sessions": -(-plan.sessions // workers)})


def written(settings: ServeSettings) -> dict[str, Any]:
    """The settings that differ from the defaults or were given, to be made again in another process."""
    kept: Mapping[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    return {**kept}
