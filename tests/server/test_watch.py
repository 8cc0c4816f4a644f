"""What is replaced on disk is seen: at once where the kernel tells, by looking elsewhere, and when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from oodguard.core import manifest as manifest_module
from oodguard.core.manifest import MANIFEST_FILE
from oodguard.load_tests.process import wait_until
from oodguard.server import app, notices
from oodguard.server.app import Parts
from oodguard.server.arrival import Arrival, Doorstep, fingerprint
from oodguard.server.keys import digest
from oodguard.server.notices import folders_on_the_way
from oodguard.server.settings import ServeSettings
from oodguard.server.watch import watch_files

SWAPPED = 'oodguard_reloads_total{result="swapped"}'
REFUSED = 'oodguard_reloads_total{result="refused"}'
# Longer than a test: what is seen is seen because the kernel tells.
NEVER = ("--watch-interval", "3600")


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "serving" / "bundle"
    shutil.copytree(bundle, folder)
    return folder


@contextlib.asynccontextmanager
async def watching(**settings: Any) -> AsyncIterator[Parts]:
    """The parts of a server whose files are watched in this process."""
    parts = Parts.of(ServeSettings(watch_interval=0.1, page=False, **settings), None)
    await parts.serving.start()
    task = asyncio.create_task(watch_files(parts.settings, parts.serving, parts.keys))
    try:
        yield parts
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.close()


def named(parts: Parts, key: str) -> str | None:
    found = parts.keys.who(None, key)
    return None if found is None else found.name


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def test_links_that_are_swapped_anywhere_on_the_way_are_seen_at_once(
    server: Any, bundle: Path, newer: Path, tmp_path: Path
) -> None:
    # As git-sync does it: a link to the work tree, and the bundle somewhere below.
    for version, source in (("a", bundle), ("b", newer)):
        shutil.copytree(source, tmp_path / "git" / ".worktrees" / version / "models" / "photos")
    (tmp_path / "git" / "repository").symlink_to(Path(".worktrees") / "a")
    # As Kubernetes does it: every entry leads over ..data.
    for version, source in (("..1", bundle), ("..2", newer)):
        shutil.copytree(source, tmp_path / "volume" / version / "photos")
    (tmp_path / "volume" / "..data").symlink_to("..1")
    (tmp_path / "volume" / "photos").symlink_to(Path("..data") / "photos")
    git = server(*NEVER, folder=tmp_path / "git" / "repository" / "models" / "photos")
    volume = server(*NEVER, folder=tmp_path / "volume" / "photos")
    for link, target in (("git/repository", ".worktrees/b"), ("volume/..data", "..2")):
        (tmp_path / "swapped").symlink_to(target)
        (tmp_path / "swapped").rename(tmp_path / link)
    for running in (git, volume):
        assert wait_until(lambda running=running: running.sample(SWAPPED) == 1, 5) < 5  # type: ignore[misc]
        assert running.sample(REFUSED) == 0


def test_a_slow_copy_in_place_is_taken_once_when_it_is_whole(server: Any, own: Path, newer: Path) -> None:
    running = server(*NEVER, folder=own)
    golden = sorted((newer / "golden").iterdir())
    shutil.rmtree(own / "golden")
    shutil.copy(newer / MANIFEST_FILE, own)
    graph = (newer / "model.onnx").read_bytes()
    with (own / "model.onnx").open("wb") as stream:
        for start in range(0, len(graph), len(graph) // 8):
            stream.write(graph[start : start + len(graph) // 8])
            stream.flush()
            time.sleep(0.2)
    # Golden images that arrive last.
    (own / "golden").mkdir()
    for image in golden:
        assert (running.sample(SWAPPED), running.sample(REFUSED)) == (0, 0)
        time.sleep(0.5)
        shutil.copy(image, own / "golden")
    wait_until(lambda: running.sample(SWAPPED) == 1, 10)
    assert running.sample(REFUSED) == 0
    lines = [line for line in running.output().splitlines() if "bundle" in line or "now serving" in line]
    assert [line for line in lines if "curl" not in line] == [next(line for line in lines if "now serving" in line)]


def test_what_never_becomes_whole_is_refused_once_and_taken_when_it_does(own: Path, newer: Path) -> None:
    served = fingerprint(own / MANIFEST_FILE)
    doorstep = Doorstep(own, patience=0.2)
    assert doorstep.look(served=served) is Arrival.NOTHING_NEW
    last = next(iter(sorted((own / "golden").iterdir())))
    kept = last.read_bytes()
    last.unlink()
    shutil.copy(newer / MANIFEST_FILE, own)
    shutil.copy(newer / "model.onnx", own)
    assert [doorstep.look(served=served) for _ in range(3)] == 3 * [Arrival.UNDER_WAY]
    time.sleep(0.25)
    assert doorstep.look(served=served) is Arrival.STUCK
    doorstep.refuse()
    assert [doorstep.look(served=served) for _ in range(3)] == 3 * [Arrival.NOTHING_NEW]
    last.write_bytes(kept)
    assert [doorstep.look(served=served) for _ in range(2)] == [Arrival.UNDER_WAY, Arrival.COMPLETE]
    assert doorstep.look(served=fingerprint(own / MANIFEST_FILE)) is Arrival.NOTHING_NEW


def test_a_manifest_that_is_half_there_is_under_way(own: Path) -> None:
    text = (own / MANIFEST_FILE).read_text()
    served = "0" * 64
    doorstep = Doorstep(own, patience=60)
    for half in ("", text[: len(text) // 2], '{"files": 3}', '{"files": [{"path": "../../etc/passwd"}]}'):
        (own / MANIFEST_FILE).write_text(half)
        assert [doorstep.look(served=served) for _ in range(2)] == 2 * [Arrival.UNDER_WAY], half
    (own / MANIFEST_FILE).write_text(text)
    assert [doorstep.look(served=served) for _ in range(2)] == [Arrival.UNDER_WAY, Arrival.COMPLETE]
    (own / MANIFEST_FILE).unlink()
    assert doorstep.look(served=served) is Arrival.NOTHING_NEW


def test_where_the_kernel_is_silent_somebody_looks(
    own: Path, newer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        await asyncio.Event().wait()
        yield set()

    monkeypatch.setattr(notices, "awatch", silent)
    key_file = tmp_path / "keys"
    key_file.write_text(f"a:{digest('first')}\n")

    async def story() -> None:
        async with watching(bundle=own, key_file=key_file) as parts:
            await asyncio.sleep(0.3)
            shutil.move(own, tmp_path / "old")
            shutil.copytree(newer, own)
            key_file.write_text(f"a:{digest('second')}\n")
            await until(lambda: parts.serving.model.manifest.version == "8")
            await until(lambda: named(parts, "second") == "a")
            assert named(parts, "first") is None

    asyncio.run(story())


def test_where_the_kernel_has_no_more_watches_it_is_said_once(
    own: Path, newer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def none_left(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        raise OSError("OS file watch limit reached")
        yield set()

    monkeypatch.setattr(notices, "awatch", none_left)

    async def story() -> None:
        async with watching(bundle=own) as parts:
            for source in (newer, own):
                staged = own.with_name("staged")
                shutil.copytree(source, staged)
                shutil.rmtree(own)
                staged.rename(own)
                await until(lambda: parts.serving.model.manifest.version == "8")

    asyncio.run(story())
    said = [record.getMessage() for record in caplog.records if "tells of no changes" in record.getMessage()]
    assert said == ["the kernel tells of no changes (OS file watch limit reached); looking every 0.1 s"]


def test_a_bundle_that_comes_while_the_server_starts_is_not_missed(own: Path, newer: Path) -> None:
    async def story() -> None:
        parts = Parts.of(ServeSettings(bundle=own, page=False), None)
        shutil.rmtree(own)
        shutil.copytree(newer, own)
        await parts.serving.start()
        task = asyncio.create_task(watch_files(parts.settings, parts.serving, parts.keys))
        await until(lambda: parts.serving.model.manifest.version == "8")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.close()

    asyncio.run(story())


def test_a_bad_key_file_is_said_once_and_a_good_one_taken(
    own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text(f"a:{digest('first')}\n")

    async def story() -> None:
        async with watching(bundle=own, key_file=key_file) as parts:
            key_file.write_text("not a key\n")
            await until(lambda: "of the key file refused" in caplog.text)
            await asyncio.sleep(0.5)
            assert caplog.text.count("of the key file refused") == 1
            assert named(parts, "first") is None
            key_file.write_text(f"a:{digest('first')}\n")
            await until(lambda: named(parts, "first") == "a")
            key_file.unlink()
            await until(lambda: named(parts, "first") is None)
            key_file.write_text(f"b:{digest('second')}\n")
            await until(lambda: named(parts, "second") == "b")

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())


def test_a_bundle_that_breaks_in_an_unexpected_way_does_not_end_the_watch(
    own: Path, newer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with watching(bundle=own) as parts:
            whole = parts.serving._checked

            async def broken() -> Any:
                monkeypatch.setattr(parts.serving, "_checked", whole)
                raise MemoryError

            monkeypatch.setattr(parts.serving, "_checked", broken)
            text = (newer / MANIFEST_FILE).read_text()
            shutil.copy(newer / "model.onnx", own)
            (own / MANIFEST_FILE).write_text(text.replace('"8"', '"9"', 1))
            await until(lambda: "failed in an unexpected way" in caplog.text)
            (own / MANIFEST_FILE).write_text(text)
            await until(lambda: parts.serving.model.manifest.version == "8")

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["deep", "long", "no paths", "folder", "graph", "tuning"])
def test_no_bundle_ends_the_watch_over_bundles_and_keys(
    kind: str, own: Path, newer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put in place of the bundle, the next good one is served, and a key that is removed is not valid."""
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 2**20)
    monkeypatch.setitem(Doorstep.__init__.__kwdefaults__, "patience", 0.3)
    key_file = tmp_path / "keys"
    key_file.write_text(f"a:{digest('first')}\n")
    text = (newer / MANIFEST_FILE).read_text()

    async def story() -> None:
        async with watching(bundle=own, key_file=key_file) as parts:
            refused = parts.metrics.reloads["refused"]._value
            match kind:
                case "deep":
                    (own / MANIFEST_FILE).write_text("[" * 200_000 + "]" * 200_000)
                case "long":
                    (own / MANIFEST_FILE).write_text(text + " " * 2**20)
                case "no paths":
                    (own / MANIFEST_FILE).write_text(text.replace("model.onnx", "a\\u0000b"))
                case "folder":
                    (own / MANIFEST_FILE).unlink()
                    (own / MANIFEST_FILE).mkdir()
                case "graph":
                    (own / "model.onnx").unlink()
                    (own / "model.onnx").mkdir()
                    (own / MANIFEST_FILE).write_text(text)
                case "tuning":
                    (own / "tuning.json").write_text('{"best": {"sessions": 1000000000}}')
                    shutil.copy(newer / "model.onnx", own)
                    (own / MANIFEST_FILE).write_text(text)
            if kind != "folder":  # where there is no manifest, nothing has arrived
                await until(lambda: refused.get() == 1)
            assert parts.serving.model.manifest.version != "8"
            key_file.write_text(f"b:{digest('second')}\n")
            await until(lambda: named(parts, "second") == "b")
            assert named(parts, "first") is None
            shutil.rmtree(own)
            shutil.copytree(newer, own)
            await until(lambda: parts.serving.model.manifest.version == "8")

    asyncio.run(story())


def test_a_look_that_fails_is_not_the_last(own: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    looks = []

    def failing(*_: Any, **__: Any) -> Arrival:
        looks.append(1)
        raise RecursionError

    async def story() -> None:
        async with watching(bundle=own):
            monkeypatch.setattr(Doorstep, "look", failing)
            await until(lambda: len(looks) > 3)

    asyncio.run(story())
    assert caplog.text.count("cannot be watched") == 1


def test_a_watch_that_ends_turns_readiness_red(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ending(*_: Any) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(app, "watch_files", ending)
    with TestClient(app.create_gateway(ServeSettings(bundle=bundle, page=False)).public) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 503, 10)
        assert "the watch over files has ended" in client.get("/health/ready").json()["detail"]
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("kind", ["folder", "link", "chain", "dangling", "circle"])
def test_the_folders_on_the_way_are_those_in_which_a_change_matters(kind: str, tmp_path: Path) -> None:
    real = tmp_path / "real" / "photos"
    real.mkdir(parents=True)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "photos"
    expected = {tmp_path / "real", real}
    match kind:
        case "folder":
            link = real
        case "link":
            link.symlink_to(real)
            expected |= {tmp_path / "links"}
        case "chain":
            (tmp_path / "data").symlink_to("real")
            link.symlink_to("../data/photos")
            expected |= {tmp_path / "links", tmp_path}
        case "dangling":
            link.symlink_to(tmp_path / "real" / "absent")
            expected = {tmp_path / "links", tmp_path / "real"}
        case "circle":
            link.symlink_to("photos")
            expected = {tmp_path / "links"}
    assert folders_on_the_way(link) == expected


def mountable() -> bool:
    """Whether bindfs can mount: a file system in user space tells of no change made behind it, as NFS does not."""
    return shutil.which("bindfs") is not None and Path("/dev/fuse").exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder, and the place where it is mounted as a network file system would be."""
    share, mount = tmp_path / "share", tmp_path / "mount"
    share.mkdir()
    mount.mkdir()
    subprocess.run(["bindfs", share, mount], check=True, capture_output=True)
    yield share, mount
    subprocess.run(["fusermount", "-u", "-z", mount], check=False, capture_output=True)


@pytest.mark.skipif(not mountable(), reason="bindfs (Debian: bindfs) is not installed, or nothing may be mounted")
def test_a_bundle_replaced_on_the_other_side_of_a_mount_is_served(
    server: Any, mounted: tuple[Path, Path], bundle: Path, newer: Path
) -> None:
    share, mount = mounted
    shutil.copytree(bundle, share / "photos")
    running = server(folder=mount / "photos")
    shutil.copytree(newer, share / ".new")
    (share / "photos").rename(share / ".old")
    (share / ".new").rename(share / "photos")
    wait_until(lambda: running.sample(SWAPPED) == 1, 10)
    assert running.sample(REFUSED) == 0
    running.stop()
