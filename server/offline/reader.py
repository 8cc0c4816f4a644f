"""Bytes of one image, from wherever it is; nothing is ever written to disk, and nothing but ordinary files is read."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oodguard.core.errors import ImageError
from oodguard.server.offline.archives import READ_ERRORS, open_tar
from oodguard.server.offline.items import Item

KEPT_OPEN = 4
# A pipe that is named like a photo must not be waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Reader:
    """Reads items, from several threads at once; at most `KEPT_OPEN` archives stay open beside those in use.

    Relative paths start at `base`. Compressed tars (`kind` "stream") should be read in order: going back means
    unpacking from the beginning again.
    """

    def __init__(self, base: Path, *, max_bytes: int) -> None:
        self._base = base
        self._max_bytes = max_bytes
        self._archives: dict[str, _Archive] = {}
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        """The encoded image. Raises `ImageError`."""
        if item.error is not None:
            raise item.error
        path = str(self._base / item.path)
        if item.kind == "file":
            return _read_file(path, self._max_bytes)
        try:
            with self._using(path, item) as archive:
                data = archive.read(item)
        except READ_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ImageError("damaged_archive", f"the member cannot be read ({reason})") from None
        if len(data) != item.size:
            raise ImageError("damaged_archive", f"the member has {len(data):,} of {item.size:,} bytes")
        return data

    @contextmanager
    def _using(self, path: str, item: Item) -> Iterator[_Archive]:
        with self._lock:
            archive = self._archives.pop(path, None) or (_Zip(path) if item.kind == "zip" else _Tar(path))
            self._archives[path] = archive
            archive.users += 1
            idle = [name for name, one in self._archives.items() if not one.users]
            for name in idle[: max(0, len(self._archives) - KEPT_OPEN)]:
                self._archives.pop(name).close()
        try:
            yield archive
        finally:
            with self._lock:
                archive.users -= 1

    def close(self) -> None:
        """Close every archive."""
        with self._lock:
            while self._archives:
                self._archives.popitem()[1].close()


class _Archive:
    """An open archive; `users` counts the threads that read it now."""

    def __init__(self) -> None:
        self.users = 0
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Zip(_Archive):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._zip = zipfile.ZipFile(path)
        self._infos = {info.header_offset: info for info in self._zip.infolist()}

    def read(self, item: Item) -> bytes:
        info = self._infos.get(item.offset)
        if info is None:
            raise zipfile.BadZipFile("it is not in the archive any more")
        # Opening and closing share a counter that the standard library does not guard; reading is guarded.
        with self._lock:
            member = self._zip.open(info)
        try:
            # Never more than was announced, whatever the member unpacks to.
            return member.read(item.size)
        finally:
            with self._lock:
                member.close()

    def close(self) -> None:
        self._zip.close()


class _Tar(_Archive):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._stream = open_tar(path)

    def read(self, item: Item) -> bytes:
        with self._lock:
            self._stream.seek(item.offset)
            return self._stream.read(item.size)

    def close(self) -> None:
        self._stream.close()


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        remote = "; nothing is fetched from a network" if "://" in path or ":/" in path else ""
        raise ImageError("not_found", f"there is no such file{remote}") from None
    except (OSError, ValueError) as error:
        raise ImageError("cannot_read", _reason(error)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not_a_file", "it is not an ordinary file")
        if status.st_size > max_bytes:
            raise ImageError(
                "too_many_bytes", f"the image has {status.st_size:,} bytes; at most {max_bytes:,} are accepted"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            # One more than allowed: a file that grows meanwhile is still refused, by the decoder.
            return stream.read(max_bytes + 1)
    except OSError as error:
        raise ImageError("cannot_read", _reason(error)) from None
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return f"the file cannot be read ({getattr(error, 'strerror', None) or error})"
