"""Reloading when files are replaced: the bundle folder, and the key file."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from watchfiles import awatch

from oodguard.core.manifest import MANIFEST_FILE
from oodguard.server.errors import ReloadRefused
from oodguard.server.service import GuardService

SETTLE_MS = 600
TRITON_SECONDS = 1.0
LONGEST_PAUSE = 60.0


async def watch_remote(service: GuardService) -> None:
    """Reload the model when a remote engine's newest graph is another; runs until cancelled.

    A model that is refused is tried again, after ever longer pauses: it may still have been loading.
    """
    pause = TRITON_SECONDS
    while service.model.remote is not None:
        await asyncio.sleep(pause)
        newest = await service.model.remote.newest()
        if newest in (None, service.model.manifest.graph_sha256):
            pause = TRITON_SECONDS
            continue
        try:
            await service.reload()
            pause = TRITON_SECONDS
        except ReloadRefused:
            pause = min(2 * pause, LONGEST_PAUSE)


async def watch(service: GuardService) -> None:
    """Reload the model when its manifest changes, and the keys when their file does; runs until cancelled.

    A folder that is replaced as a whole is seen through its parent. A bundle that is refused is tried again at the
    next change, so a slow copy ends well.
    """
    bundle = service.settings.bundle.absolute() if service.settings.bundle else None
    keys = service.settings.key_file.absolute() if service.settings.key_file else None
    manifest = bundle / MANIFEST_FILE if bundle else None
    served, read = _fingerprint(manifest), _fingerprint(keys)
    watched = [*((bundle, bundle.parent) if bundle else ()), *([keys.parent] if keys else [])]
    while watched:
        folders = [folder for folder in watched if folder.is_dir()]
        # One round: the folder that was watched may be gone afterwards, so the watch is set up again.
        async for _ in awatch(*dict.fromkeys(folders), recursive=False, debounce=SETTLE_MS, step=100):
            break
        now = _fingerprint(manifest)
        if now not in (None, served):
            try:
                await service.reload()
                served = now
            except ReloadRefused:
                pass
        now = _fingerprint(keys)
        if now not in (None, read):
            try:
                service.reload_keys()
                read = now
            except ReloadRefused:
                pass


def _fingerprint(path: Path | None) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    except OSError:
        return None
