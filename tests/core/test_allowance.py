"""Cores and memory under control groups, from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oodguard.core import allowance
from oodguard.core.allowance import ResourceAllowance, cores

GIB = 2**30
V2_MOUNT = "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)
V1_GROUPS = "9:name=systemd:/\n6:memory:{path}\n5:cpuset:/\n4:cpu,cpuacct:{path}\n0::/\n"


@pytest.fixture(autouse=True)
def sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_groups_all_that_is_there(tmp_path: Path) -> None:
    assert ResourceAllowance.read(tmp_path) == ResourceAllowance(cores=64, memory=None)
    root = write(tmp_path, {"proc/meminfo": "MemTotal:       24684092 kB\nMemFree:         8748160 kB\n"})
    assert ResourceAllowance.read(root) == ResourceAllowance(cores=64, memory=24684092 * 1024)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2),
        ("max 100000\n", 64),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("300000 50000\n", 6),
        ("9900000 100000\n", 64),
        ("", 64),
        ("nonsense\n", 64),
    ],
)
def test_the_quota_of_version_2(text: str, expected: int, tmp_path: Path) -> None:
    # As a container with a namespace of its own sees it.
    root = write(
        tmp_path,
        {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text},
    )
    assert ResourceAllowance.read(root).cores == expected


def test_the_smallest_limit_on_the_path_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V2_MOUNT,
            "proc/self/cgroup": "0::/kubepods.slice/pod1.slice/guard.scope\n",
            "proc/meminfo": f"MemTotal: {64 * 2**20} kB\n",
            "sys/fs/cgroup/kubepods.slice/cpu.max": "6000000 100000\n",
            "sys/fs/cgroup/kubepods.slice/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/guard.scope/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/guard.scope/memory.max": "max\n",
            # A neighbour's is nobody's business.
            "sys/fs/cgroup/kubepods.slice/pod2.slice/cpu.max": "100000 100000\n",
        },
    )
    assert ResourceAllowance.read(root) == ResourceAllowance(cores=4, memory=2 * GIB)


@pytest.mark.parametrize(
    ("top", "path", "folder"),
    [
        ("/", "/docker/1f2e", "docker/1f2e"),
        # A container of version 1 without a namespace: the path is the host's, the mount begins at the group.
        ("/docker/1f2e", "/docker/1f2e", ""),
        ("/docker/1f2e", "/docker/1f2e/below", "below"),
        # Or the path names what is not mounted here.
        ("/docker/1f2e", "/elsewhere", ""),
    ],
)
def test_version_1(top: str, path: str, folder: str, tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1_MOUNTS.format(top=top),
            "proc/self/cgroup": V1_GROUPS.format(path=path),
            f"sys/fs/cgroup/cpu,cpuacct/{folder}/cpu.cfs_quota_us": "150000\n",
            f"sys/fs/cgroup/cpu,cpuacct/{folder}/cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes": f"{512 * 2**20}\n",
            # Of another hierarchy than those that limit anything.
            "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "1\n",
        },
    )
    assert ResourceAllowance.read(root) == ResourceAllowance(cores=2, memory=512 * 2**20)


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1_MOUNTS.format(top="/"),
            "proc/self/cgroup": V1_GROUPS.format(path="/"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert ResourceAllowance.read(root) == ResourceAllowance(cores=64, memory=None)


def test_both_versions_at_once(tmp_path: Path) -> None:
    # systemd's hybrid layout: processors by version 1, memory by version 2.
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V1_MOUNTS.format(top="/")
            + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            "proc/self/cgroup": V1_GROUPS.format(path="/a").replace("0::/", "0::/a"),
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/a/memory.max": f"{GIB}\n",
        },
    )
    assert ResourceAllowance.read(root) == ResourceAllowance(cores=3, memory=GIB)


def test_a_path_outside_of_the_namespace_and_a_mount_with_a_space(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/my\\040groups"),
            "proc/self/cgroup": "0::/../../other\n",
            "sys/fs/my groups/cpu.max": "500000 100000\n",
        },
    )
    assert ResourceAllowance.read(root).cores == 5


def test_affinity_is_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": V2_MOUNT,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "800000 100000\n",
        },
    )
    monkeypatch.setattr(allowance, "ROOT", root)
    assert cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert cores() == 2
