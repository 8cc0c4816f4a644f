"""Reads the bytes of one image from a file or an archive. Writes nothing to disk and opens ordinary files only."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError, InputError
from oodguard.core.image_tables import ImageTable
from oodguard.core.images import read_file
from oodguard.core.tarballs import open_tar
from oodguard.server.offline.archives import READ_ERRORS
from oodguard.server.offline.items import Item

KEPT_OPEN = 4
NEAR = 64


class Reader:
    """Reads items. Threads may share it; it keeps at most `KEPT_OPEN` archives open beside those in use.

    Relative paths start at `base`. Read the items of a compressed tar (`kind` "stream") and of a Parquet file in order:
    going back unpacks a tar from its beginning again, and a Parquet file from the beginning of the row's group. column:
    the column of images, where a Parquet file has several.
    """

    def __init__(self, base: Path, *, max_bytes: int, column: str | None = None) -> None:
        self._base = base
        self._max_bytes = max_bytes
        self._column = column
        self._archives: dict[str, _Archive] = {}
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        """Return the encoded image. Raises `ImageError`."""
        if item.error is not None:
            raise item.error
        path = str(self._base / item.path)
        if item.kind == "file":
            return read_file(path, max_bytes=self._max_bytes)
        try:
            with self._using(path, item) as archive:
                data = archive.read(item)
        except InputError as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(Code.DAMAGED_ARCHIVE, str(error)) from None
        except READ_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ImageError(Code.DAMAGED_ARCHIVE, f"the member cannot be read ({reason})") from None
        if item.kind == "parquet":
            if len(data) > self._max_bytes:
                raise ImageError(
                    Code.TOO_MANY_BYTES,
                    f"the image has {len(data):,} bytes; at most {self._max_bytes:,} are accepted (--max-image-bytes)",
                )
        elif len(data) != item.size:
            raise ImageError(Code.DAMAGED_ARCHIVE, f"the member has {len(data):,} of {item.size:,} bytes")
        return data

    @contextmanager
    def _using(self, path: str, item: Item) -> Iterator[_Archive]:
        with self._lock:
            archive = self._archives.pop(path, None) or self._open(path, item)
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

    def _open(self, path: str, item: Item) -> _Archive:
        if item.kind == "parquet":
            return _Table(path, self._column)
        return _Zip(path) if item.kind == "zip" else _Tar(path)

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
            # Never more than the directory announced, whatever the member unpacks to.
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


class _Table(_Archive):
    """A Parquet file; the rows that come after the last one that was read are found at once."""

    def __init__(self, path: str, column: str | None) -> None:
        super().__init__()
        self._table = ImageTable(Path(path), column=column)
        self._rows = self._table.rows()
        self._next = 0

    def read(self, item: Item) -> bytes:
        with self._lock:
            # Further ahead than a batch, the groups between are passed over unread.
            if not self._next <= item.offset < self._next + NEAR:
                self._rows, self._next = self._table.rows(item.offset), item.offset
            row = None
            while self._next <= item.offset:
                row = next(self._rows, None)
                self._next += 1
        if row is None or row.number != item.offset:
            raise ImageError(Code.DAMAGED_ARCHIVE, f"the file has no row {item.offset}")
        return row.image

    def close(self) -> None:
        self._table.close()
