"""The flagged pictures of a folder as the tool shows them: their verdicts, and small copies made when asked for."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from oodguard.clients.samples import Unreadable, read_samples
from oodguard.core.answers import FlaggedSample
from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.core.images import OWN_FILES
from oodguard.core.preprocessing import Preprocessing, open_image
from oodguard.core.text import visible

SMALL, LARGE = 224, 1024
QUALITY = {SMALL: 78, LARGE: 88}
# Of small copies; 2,000 of them take about 20 MB.
KEPT_BYTES = 128 << 20
# Lets the decoder make less of a large JPEG than it holds; the numbers are not used.
SHRUNK = {
    side: Preprocessing(resize=side, crop=side, fit="pad", reduced_jpeg=True, mean=(0, 0, 0), std=(1, 1, 1))
    for side in (SMALL, LARGE)
}


@dataclass(frozen=True)
class FlaggedPicture:
    """One flagged picture. name: its path in the folder, with slashes, as it is shown and as marks have it."""

    number: int
    name: str
    path: Path
    sample: FlaggedSample

    @property
    def margin(self) -> float:
        """How far the fused score is from its threshold, in nats: `|OOD score - threshold|`; 0 is least certain.

        The fused score of every model is made of surprises, so margins of different models have one unit.
        """
        return abs(self.sample.ood_score - self.sample.threshold)


class FlaggedPictures:
    """The flagged pictures of a folder, by number. Threads may share it.

    ```python
    pictures = FlaggedPictures(Path("flagged"))
    jpeg = pictures.copy(0, side=SMALL)
    ```

    Raises `InputError` as `read_samples` does, and for a folder without a pair of picture and sidecar.
    """

    def __init__(self, folder: Path) -> None:
        samples = read_samples(folder)
        if not samples.good:
            first = samples.unreadable[0]
            raise InputError(f"{folder} has no picture with a sidecar that can be read; {first.file}: {first.why}")
        self.folder = folder
        self.unreadable: tuple[Unreadable, ...] = samples.unreadable
        self.items = tuple(
            FlaggedPicture(number, visible(one.image.relative_to(folder).as_posix()), one.image, one.sample)
            for number, one in enumerate(samples.good)
        )
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._gate = threading.Lock()

    def __len__(self) -> int:
        return len(self.items)

    def copy(self, number: int, *, side: int) -> bytes:
        """A JPEG of at most `side` x `side` pixels, upright and without metadata; small ones are kept.

        Raises `ImageError` for a picture that cannot be decoded, and `OSError` for one that cannot be read.
        """
        with self._gate:
            if side == SMALL and number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        made = _encoded(self.shrunk(number, side=side), side)
        if side == SMALL:
            self._keep(number, made)
        return made

    def shrunk(self, number: int, *, side: int) -> Image.Image:
        """The picture, upright and RGB, at most `side` x `side` pixels. Raises as `copy` does."""
        image = open_image(self.items[number].path.read_bytes(), OWN_FILES, shrink_for=SHRUNK[side])
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image

    def _keep(self, number: int, made: bytes) -> None:
        with self._gate:
            if number not in self._kept:
                self._kept[number] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old)

    def sha256s(self, numbers: Iterable[int]) -> dict[str, str]:
        """The SHA-256 of pictures' bytes by their names; empty for one that cannot be read."""
        found = {}
        for picture in (self.items[number] for number in numbers):
            try:
                found[picture.name] = file_sha256(picture.path)
            except OSError:
                found[picture.name] = ""
        return found


def _encoded(image: Image.Image, side: int) -> bytes:
    image.info = {}
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY[side])
    return stream.getvalue()
