"""What the kernel tells about folders in which something may be replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Set as AbstractSet
from pathlib import Path

from watchfiles import awatch

from oodguard.server.logs import server as log

SETTLE_MS = 600
STEP_MS = 100
# Links that one path may lead over, as the kernel has it.
MAX_LINKS = 40


class Notices:
    """Waits for a change in folders, as far as the kernel tells of it, or for a time to pass.

    The folders stay watched between two waits, so nothing that happens meanwhile is missed.
    """

    def __init__(self, interval: float) -> None:
        """`interval` is for the log: how often somebody looks where no notices come."""
        self._interval = interval
        self._event = asyncio.Event()
        self._folders: frozenset[tuple[Path, int]] = frozenset()
        self._listening: asyncio.Task[None] | None = None
        self._said = False

    async def wait(self, folders: AbstractSet[Path], seconds: float) -> None:
        """Return after a change in one of `folders`, or after so many seconds."""
        there = frozenset((folder, number) for folder in folders if (number := _inode(folder)))
        if there != self._folders:
            # A folder that was replaced is another one of the same name.
            await self.close()
            self._folders = there
            self._listening = self._start({folder for folder, _ in there})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()

    async def close(self) -> None:
        """Watch nothing more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None

    def _start(self, folders: AbstractSet[Path]) -> asyncio.Task[None]:
        return asyncio.create_task(self._listen(folders))

    async def _listen(self, folders: AbstractSet[Path]) -> None:
        try:
            # Without its filter, which leaves out folders by names such as site-packages.
            async for _ in awatch(*folders, watch_filter=None, recursive=False, debounce=SETTLE_MS, step=STEP_MS):
                self._event.set()
        except (OSError, RuntimeError) as error:
            if not self._said:
                self._said = True
                log.warning("the kernel tells of no changes (%s); looking every %g s", error, self._interval)


def folders_on_the_way(path: Path) -> set[Path]:
    """The folder that `path` is, if it is one, the one it lies in, and every one with a link on the way to it.

    Replacing a link changes what `path` is, though nothing in its own folder changes: git-sync and Kubernetes do so.
    """
    found: set[Path] = set()
    here, rest, links = Path(path.anchor), list(path.parts[1:]), 0
    while rest:
        name = rest.pop(0)
        step = here.parent if name == ".." else here / name
        try:
            target = step.readlink()
        except OSError:
            if not rest:
                found |= {here, step}
            here = step
            continue
        links += 1
        if links > MAX_LINKS:
            break
        found.add(here)
        if target.is_absolute():
            here = Path(target.anchor)
        rest = [*target.parts[target.is_absolute() :], *rest]
    return {folder for folder in found if folder.is_dir()}


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None
