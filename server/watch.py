"""Reloading when files are replaced: the bundle folder, and the key file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from oodguard.server.arrival import Arrival, Doorstep, fingerprint
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log
from oodguard.server.notices import Notices, folders_on_the_way
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings

# Seconds until the next look while a new bundle arrives.
SOON = 0.3
TRITON_SECONDS = 1.0
LONGEST_PAUSE = 60.0
# In the place of the fingerprint of a file that is not there, or cannot be read.
ABSENT = "absent"


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


async def watch_files(settings: ServeSettings, serving: Reloadable, keys: ReloadableKeys) -> None:
    """Reload the model when a new bundle is in its folder, and the keys when their file changes; until cancelled.

    Each is looked at when the kernel tells of a change near it, and every `watch_interval` seconds in any case: network
    file systems tell of nothing that another machine changes.
    """
    watched: list[Watched] = []
    if settings.bundle is not None:
        watched.append(WatchedBundle(settings.bundle.absolute(), serving))
    if settings.key_file is not None:
        watched.append(WatchedKeys(settings.key_file.absolute(), keys))
    await _watch(watched, settings.watch_interval)


async def watch_bundle(path: Path, bundle: Reloadable, interval: float) -> None:
    """Reload what a bundle folder holds when a new one is in it; until cancelled."""
    await _watch([WatchedBundle(path.absolute(), bundle)], interval)


async def _watch(watched: Sequence[Watched], interval: float) -> None:
    notices = Notices(interval)
    looks = [LastingLook(one) for one in watched]
    try:
        while watched:
            soon = [await look() for look in looks]
            folders = set().union(*(folders_on_the_way(one.path) for one in watched))
            await notices.wait(folders, SOON if any(soon) else interval)
    finally:
        await notices.close()


class LastingLook:
    """A look at something watched that always comes back: one that fails must not be the last."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._failed = False

    async def __call__(self) -> bool:
        """Whether to look again soon. The first failure of several in a row is logged."""
        try:
            soon = await self._watched.look()
        except Exception:
            if not self._failed:
                log.exception("%s cannot be watched; looking again", self._watched.path)
            self._failed = True
            return False
        self._failed = False
        return soon


class Reloadable(Protocol):
    """What is loaded from a bundle folder."""

    @property
    def fingerprint(self) -> str | None:
        """The hash of the manifest that is loaded; None where none is."""

    async def reload(self) -> object:
        """Load the folder again. Raises `ReloadRefused`; what was loaded stays then."""


class ReloadableKeys(Protocol):
    """Keys that are read from a file."""

    def reload(self) -> None:
        """Read the file again. Raises `ReloadRefused`."""


class Watched(Protocol):
    """Something on disk that may be replaced."""

    path: Path

    async def look(self) -> bool:
        """Take what is new; whether to look again soon."""


class WatchedBundle:
    """The bundle folder."""

    def __init__(self, path: Path, loaded: Reloadable) -> None:
        self.path = path
        self._loaded = loaded
        self._doorstep = Doorstep(path)

    async def look(self) -> bool:
        """Take a new bundle once it is complete. One that is refused is left alone until something of it changes."""
        # In a thread, because a network file system may keep a reader waiting.
        found = await asyncio.to_thread(self._doorstep.look, served=self._loaded.fingerprint)
        if found in (Arrival.COMPLETE, Arrival.STUCK):
            try:
                await self._loaded.reload()
            except ReloadRefused:
                self._doorstep.refuse()
        return found is Arrival.UNDER_WAY


class WatchedKeys:
    """The key file."""

    def __init__(self, path: Path, keys: ReloadableKeys) -> None:
        self.path = path
        self._keys = keys
        self._taken: str | None = None  # nothing yet: the file may have changed since the start

    async def look(self) -> bool:
        """Read the keys again when the file has another content. What is refused is not read twice."""
        found = await asyncio.to_thread(fingerprint, self.path) or ABSENT
        if found != self._taken:
            self._taken = found
            with contextlib.suppress(ReloadRefused):
                self._keys.reload()
        return False
