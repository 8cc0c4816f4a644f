"""Reloading when files are replaced: the bundle folder, and the key file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchfiles import awatch

from oodguard.core.manifest import MANIFEST_FILE
from oodguard.server.errors import ReloadRefused
from oodguard.server.keys import KeyRing
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings

SETTLE_MS = 600
TRITON_SECONDS = 1.0
LONGEST_PAUSE = 60.0

Targets = dict[Path, Callable[[], Awaitable[object]]]


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


async def watch_files(settings: ServeSettings, serving: Serving, keys: KeyRing) -> None:
    """Reload the model when its manifest changes, and the keys when their file does; runs until cancelled.

    A folder that is replaced as a whole is seen through its parent. What is refused is tried again at the next change,
    so a slow copy ends well.
    """

    async def reload_keys() -> None:
        keys.reload()

    targets: Targets = {}
    folders: list[Path] = []
    if settings.bundle is not None:
        bundle = settings.bundle.absolute()
        targets[bundle / MANIFEST_FILE] = serving.reload
        folders += bundle, bundle.parent
    if settings.key_file is not None:
        file = settings.key_file.absolute()
        targets[file] = reload_keys
        folders.append(file.parent)
    await _watch(targets, folders)


async def watch_bundle(bundle: Path, reload: Callable[[], Awaitable[object]]) -> None:
    """Call `reload` when a bundle's manifest changes; runs until cancelled."""
    bundle = bundle.absolute()
    await _watch({bundle / MANIFEST_FILE: reload}, [bundle, bundle.parent])


async def _watch(targets: Targets, folders: list[Path]) -> None:
    taken = {path: _fingerprint(path) for path in targets}
    while targets:
        # One round: the folder that was watched may be gone afterwards, so the watch is set up again.
        there = dict.fromkeys(folder for folder in folders if folder.is_dir())
        async for _ in awatch(*there, recursive=False, debounce=SETTLE_MS, step=100):
            break
        for path, reload in targets.items():
            now = _fingerprint(path)
            if now not in (None, taken[path]):
                with contextlib.suppress(ReloadRefused):
                    await reload()
                    taken[path] = now


def _fingerprint(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
