"""What this process may use of the machine: cores and memory, as affinity and control groups (cgroups) allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
MOUNTS, GROUPS, MEMORY = Path("proc/self/mountinfo"), Path("proc/self/cgroup"), Path("proc/meminfo")
# What version 1 writes where there is no limit: the largest multiple of a page.
UNLIMITED = 2**62
KIB = 1024


@dataclass(frozen=True, slots=True)
class ResourceAllowance:
    """How many cores a process may keep busy, and how many bytes of memory it may take; None: as many as there are.

    ```python
    ResourceAllowance.read().cores
    ```

    Two and a half cores of a quota are three: two would leave a fifth of it unused.
    """

    cores: int
    memory: int | None

    @classmethod
    def read(cls, root: Path | None = None) -> ResourceAllowance:
        """What this process may use now. root: of the file system, with `proc` and the mounted groups in it.

        A limit holds for the group that sets it and for all below it, so the smallest on the way counts. What cannot be
        read is taken for no limit.
        """
        root = ROOT if root is None else root
        visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        quotas, limits = [float(visible)], []
        for folder in _groups(root):
            quotas += _quota(folder)
            limits += _limit(folder)
        limits += _physical(root / MEMORY)
        return cls(cores=max(1, math.ceil(min(quotas) - 1e-9)), memory=min(limits, default=None))


def cores() -> int:
    """The cores that this process may keep busy."""
    return ResourceAllowance.read().cores


def _groups(root: Path) -> Iterator[Path]:
    """The folders of every group that this process is in, and of those around it, in either version."""
    mounts = list(_mounts(root))
    for line in _lines(root / GROUPS):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        wanted = set(controllers.split(",")) & {"cpu", "memory"}
        for kind, options, top, place in mounts:
            if (not controllers and kind == "cgroup2") or (kind == "cgroup" and wanted & options):
                yield from _upwards(root / place.lstrip("/"), top, path)


def _upwards(place: Path, top: str, path: str) -> Iterator[Path]:
    """A group's folder and all above it, up to where the hierarchy is mounted.

    top: the group that lies at the mount: inside a container the group's own, whatever its path outside is called.
    """
    parts = Path(path).parts[1:]
    above = Path(top).parts[1:]
    inside = parts[len(above) :] if parts[: len(above)] == above else ()
    # Outside of the namespace, its names mean nothing here.
    inside = () if ".." in inside else inside
    for depth in range(len(inside), -1, -1):
        yield place.joinpath(*inside[:depth])


def _mounts(root: Path) -> Iterator[tuple[str, set[str], str, str]]:
    """Kind, options, root and place of each mount (proc(5): the optional fields end with a dash)."""
    for line in _lines(root / MOUNTS):
        before, _, after = line.partition(" - ")
        place, source = before.split(), after.split()
        if len(place) >= 5 and len(source) >= 3 and source[0].startswith("cgroup"):
            yield source[0], set(source[2].split(",")), _plain(place[3]), _plain(place[4])


def _plain(path: str) -> str:
    """A path of mountinfo, where spaces are written as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _quota(folder: Path) -> list[float]:
    """Cores of a group's quota: what it may compute in a period, over the period."""
    quota, _, period = " ".join(_lines(folder / "cpu.max")).partition(" ")
    if not quota:
        quota = " ".join(_lines(folder / "cpu.cfs_quota_us"))
        period = " ".join(_lines(folder / "cpu.cfs_period_us"))
    found, each = _number(quota), _number(period)
    return [found / each] if found and each else []


def _limit(folder: Path) -> list[int]:
    """Bytes of a group's limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    found = (_number(" ".join(_lines(folder / name))) for name in names)
    return [size for size in found if size is not None and size < UNLIMITED]


def _physical(file: Path) -> list[int]:
    found = (line.split()[1] for line in _lines(file) if line.startswith("MemTotal:"))
    return [KIB * size for text in found if (size := _number(text)) is not None]


def _number(text: str) -> int | None:
    """A number that is a limit; None for `max`, for -1 and for what is none."""
    return int(text) if text.isascii() and text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
