"""Small copies of a bank's photos, packed into one file of the bundle: a zip archive without compression."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from oodguard.core.errors import FormatError

THUMBNAILS_FILE = "thumbnails.zip"
SIDE = 96
QUALITY = 80
# No JPEG of 96 x 96 pixels at this quality comes near: an archive says what it holds, and is not believed blindly.
MAX_BYTES = 64 * 1024
# The earliest time that a zip archive can hold: the same photos give the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def small_jpeg(image: Image.Image) -> bytes:
    """An RGB image as a JPEG that fits `SIDE` x `SIDE` pixels, without metadata."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.info = {}
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def write_thumbnails(path: Path, pictures: Iterable[tuple[str, bytes]]) -> None:
    """Write JPEGs, each under the SHA-256 of the photo that it is a copy of; one photo's copy is kept once."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        kept: set[str] = set()
        for sha256, data in pictures:
            if sha256 not in kept:
                kept.add(sha256)
                archive.writestr(zipfile.ZipInfo(_name(sha256), _EPOCH), data)


class Thumbnails:
    """The small copies in a bundle, by the SHA-256 of the photo; threads may share it. Close it.

    ```python
    jpeg = Thumbnails(bundle / THUMBNAILS_FILE).read(neighbour.sha256)
    ```

    The file stays open, so that a bundle that is replaced serves its own copies to its end. Raises `FormatError` for a
    file that is no such archive.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path} holds no thumbnails ({error}); export the bundle again") from None

    def read(self, sha256: str) -> bytes | None:
        """The JPEG of a photo; None where the archive has none of it."""
        try:
            entry = self._archive.getinfo(_name(sha256))
        except KeyError:
            return None
        if entry.file_size > MAX_BYTES or entry.compress_type != zipfile.ZIP_STORED:
            return None
        try:
            return self._archive.read(entry)
        except (OSError, zipfile.BadZipFile):
            return None

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


def _name(sha256: str) -> str:
    return f"{sha256}.jpg"
