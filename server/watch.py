"""Reloading when files are replaced: the bundle folder, and the key file."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from watchfiles import awatch

from oodguard.core.manifest import MANIFEST_FILE
from oodguard.server.callers import Callers
from oodguard.server.errors import ReloadRefused
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings

SETTLE_MS = 600
TRITON_SECONDS = 1.0
LONGEST_PAUSE = 60.0


async def watch_remote(serving: Serving) -> None:
    """Reload the model when a remote engine's newest graph is another; runs until cancelled.

    A model that is refused is tried again, after ever longer pauses: it may still have been loading.
    """
    pause = TRITON_SECONDS
    while serving.model.remote is not None:
        await asyncio.sleep(pause)
        newest = await serving.model.remote.newest()
        if newest in (None, serving.model.manifest.graph_sha256):
            pause = TRITON_SECONDS
            continue
        try:
            await serving.reload()
            pause = TRITON_SECONDS
        except ReloadRefused:
            pause = min(2 * pause, LONGEST_PAUSE)


async def watch_files(settings: ServeSettings, serving: Serving, callers: Callers) -> None:
    """Reload the model when its manifest changes, and the keys when their file does; runs until cancelled.

    A folder that is replaced as a whole is seen through its parent. A bundle that is refused is tried again at the
    next change, so a slow copy ends well.
    """
    bundle = settings.bundle.absolute() if settings.bundle else None
    keys = settings.key_file.absolute() if settings.key_file else None
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
                await serving.reload()
                served = now
            except ReloadRefused:
                pass
        now = _fingerprint(keys)
        if now not in (None, read):
            try:
                callers.reload()
                read = now
            except ReloadRefused:
                pass


def _fingerprint(path: Path | None) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    except OSError:
        return None
