"""Lists the images in zips and tars without unpacking: one `Item` per image; bombs and tricks are error rows."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from oodguard.core.codes import Code
from oodguard.core.formats import HEAD
from oodguard.core.image_tables import ImageTable, is_parquet
from oodguard.core.tarballs import DamagedTar, members, open_tar
from oodguard.core.text import readable
from oodguard.server.offline.items import Item, Kind
from oodguard.server.offline.skipped import SkippedFiles, looks_like_image

TAR_SUFFIXES = (".tar",)
# Photos hardly shrink, so an archive that unpacks to more than this many times its size holds no photos.
MAX_EXPANSION = 100
FREE_EXPANSION = 1024**3
# Python keeps the whole directory of a zip in memory; this is the directory of some two million members.
MAX_ZIP_DIRECTORY = 256 * 1024**2
ZIP_HEADER = 30
READ_ERRORS = (
    OSError, EOFError, RuntimeError, NotImplementedError, ValueError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


def kind_of(path: str) -> Kind | None:
    """Return the kind of archive that a file is, by its first bytes; None for any other file."""
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        return "stream"
    if is_parquet(head):
        return "parquet"
    return "tar" if head[257:262] == b"ustar" or path.lower().endswith(TAR_SUFFIXES) else None


def list_archive(given: str, path: str, kind: Kind, *, max_bytes: int, passed: SkippedFiles) -> Iterator[Item]:
    """Yield the images of an archive in its own order; `given` names their rows, `path` is where the file is.

    What is no image by its first bytes, and is not named like one, is counted in `passed`. A bad archive raises
    nothing: the images before the damage are listed, and a last item without a member has the reason.
    """
    try:
        found = _list_zip(path) if kind == "zip" else _list_tar(path, bounded=kind == "stream")
        for name, offset, size, problem, head in found:
            if _hidden(name) or not looks_like_image(name, head):
                passed.add(name, head)
                continue
            item = Item(given, kind, name, offset, size)
            yield _refused(item, *(problem or _trick(name) or _too_large(size, max_bytes)))
    except DamagedTar as damage:
        yield Item(given, kind, code=Code.DAMAGED_ARCHIVE, message=f"the archive is damaged: {damage}")
    except READ_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Item(given, kind, code=Code.DAMAGED_ARCHIVE, message=f"the archive cannot be read ({reason})")


def list_table(given: str, path: str, *, column: str | None) -> Iterator[Item]:
    """Yield the rows of a Parquet file of images, without reading the images. Raises as `ImageTable` does.

    A row is called `row 12`, and by the name that it gives its image: `row 12: cats/1.jpg`.
    """
    with ImageTable(Path(path), column=column) as table:
        for number, name in enumerate(table.names()):
            yield Item(given, "parquet", f"row {number}" + (f": {readable(name)}" if name else ""), number)


# A code and a message.
Fault = tuple[Code, str]
# The name, where it is and how large, why it cannot be used, and its first bytes, if they can be read.
Listed = tuple[str, int, int, Fault | None, bytes]


def _list_zip(path: str) -> Iterator[Listed]:
    with open(path, "rb") as stream:
        directory = _zip_directory_bytes(stream)
        if directory > MAX_ZIP_DIRECTORY:
            raise DamagedTar(f"its directory has {directory:,} bytes, at most {MAX_ZIP_DIRECTORY:,} are read")
        with zipfile.ZipFile(stream) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            by_place = sorted(infos, key=lambda info: info.header_offset)
            ends = [info.header_offset for info in by_place[1:]] + [archive.start_dir]
            for info, end in zip(by_place, ends, strict=True):
                if info.header_offset + ZIP_HEADER + info.compress_size > end:
                    raise DamagedTar(f"{info.filename} overlaps another member, as in a zip bomb")
            _require_modest(sum(info.file_size for info in infos), os.fstat(stream.fileno()).st_size)
            for info in infos:
                encrypted = (Code.DAMAGED_ARCHIVE, "the member is encrypted") if info.flag_bits & 1 else None
                link = (Code.NOT_A_FILE, "a link; links inside archives are not followed")
                is_link = info.external_attr >> 28 == 0xA
                problem = link if is_link else encrypted
                yield info.filename, info.header_offset, info.file_size, problem, _zip_head(archive, info, problem)


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, problem: Fault | None) -> bytes:
    """The first bytes of a member whose name does not say that it is an image."""
    if problem is not None or looks_like_image(info.filename, b""):
        return b""
    try:
        with archive.open(info) as member:
            return member.read(HEAD)
    except READ_ERRORS:
        return b""


def _zip_directory_bytes(stream: IO[bytes]) -> int:
    """Return the size of the central directory, all of which the standard library would read."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 65_557 - 76))
    tail = stream.read()
    stream.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise DamagedTar("its directory is missing")
    large = tail.rfind(b"PK\x06\x06", 0, at)
    small = int(struct.unpack_from("<I", tail, at + 12)[0])
    return int(struct.unpack_from("<Q", tail, large + 40)[0]) if large >= 0 else small


def _list_tar(path: str, *, bounded: bool) -> Iterator[Listed]:
    packed = Path(path).stat().st_size
    with open_tar(path) as stream:
        for member in members(stream):
            if bounded:
                _require_modest(member.offset + member.size, packed)
            if not member.folder:
                problem = (Code.NOT_A_FILE, "a link, device or sparse file; only ordinary members are read")
                head = b""
                if member.regular and not looks_like_image(member.name, b""):
                    stream.seek(member.offset)
                    head = stream.read(min(HEAD, member.size))
                yield member.name, member.offset, member.size, None if member.regular else problem, head


def _require_modest(unpacked: int, packed: int) -> None:
    if unpacked > max(FREE_EXPANSION, MAX_EXPANSION * packed):
        raise DamagedTar(f"{packed:,} bytes would unpack to {unpacked:,} or more, as in a bomb")


def _trick(name: str) -> Fault | None:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or parts[0].endswith(":"):
        return Code.UNSAFE_PATH, "the member's name leads out of the archive"
    return None


def _too_large(size: int, max_bytes: int) -> Fault | tuple[None, None]:
    if size > max_bytes:
        return Code.TOO_MANY_BYTES, f"the image has {size:,} bytes; at most {max_bytes:,} are accepted"
    return None, None


def _refused(item: Item, code: Code | None, message: str | None) -> Item:
    return Item(item.path, item.kind, item.member, item.offset, item.size, code, message) if code else item


def _hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts
