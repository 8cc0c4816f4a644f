"""What pixels alone say of photos: size, contrast, traits, and a small grey copy that knows a picture again.

Measured once for each file, by content: an interrupted check goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from oodguard.core.allowance import cores
from oodguard.core.errors import EnvironmentProblem, ImageError
from oodguard.core.preprocessing import Preprocessing, open_image, size_of
from oodguard.core.quality import traits_of
from oodguard.training.backbone.features import TRAINING_LIMITS, Progress
from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.reasons import reason

# Side of the small grey copy.
SIDE = 32
# Side of the tiny copy of the colours.
TINY = 8
# Traits are measured with this short side, or on the photo itself where it is smaller.
MEASURED = 256
_CHUNK = 256
# Changes with what is measured: measurements of another kind are not read.
_VERSION = 3
# Lets the decoder give JPEGs at a reduced scale, at `MEASURED` pixels or more.
_REDUCED = Preprocessing(
    resize=MEASURED // 2, crop=MEASURED // 2, reduced_jpeg=True, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)
_Measured = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
_WIDTH, _HEIGHT, _CONTRAST, _DARKNESS, _OVEREXPOSURE, _BLUR = range(6)


@dataclass(frozen=True)
class Pictures:
    """Measurements of N photos.

    sizes `[N, 2]`: width and height in pixels. contrast `[N]`: standard deviation of grey, 0 for one colour. darkness,
    overexposure and blur `[N]`: as answers measure them, of the whole photo (`core.quality.Traits`). copies
    `[N, SIDE, SIDE]` uint8: small grey copies. colours `[N, TINY, TINY, 2]` uint8: tiny copies of the two chroma
    channels (YCbCr), 128 where there is no colour.
    """

    sizes: npt.NDArray[np.float32]
    contrast: npt.NDArray[np.float32]
    darkness: npt.NDArray[np.float32]
    overexposure: npt.NDArray[np.float32]
    blur: npt.NDArray[np.float32]
    copies: npt.NDArray[np.uint8]
    colours: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Looked:
    """What looking at files gave: the photos that can be read with their pictures, and why the others cannot."""

    photos: tuple[Photo, ...]
    pictures: Pictures
    unreadable: dict[Photo, str]


def look(photos: Sequence[Photo], cache: Path, *, threads: int = 0, progress: Progress | None = None) -> Looked:
    """Measure photos, each file once; `cache` keeps what was measured. Raises `EnvironmentProblem`."""
    store = _Store(cache / "pictures" / str(_VERSION))
    known = store.read()
    waiting = list({photo.sha256: photo for photo in photos if photo.sha256 not in known}.values())
    reasons: dict[str, str] = {}
    with ThreadPoolExecutor(threads or cores()) as pool:
        for start in range(0, len(waiting), _CHUNK):
            chunk = waiting[start : start + _CHUNK]
            found: dict[str, _Measured] = {}
            for place, (photo, seen) in enumerate(zip(chunk, pool.map(_measure, chunk), strict=True)):
                if isinstance(seen, str):
                    reasons[photo.sha256] = seen
                else:
                    found[photo.sha256] = seen
                if progress and (place % 16 == 15 or place == len(chunk) - 1):
                    progress(start + place + 1, len(waiting))
            store.write(found)
            known |= found
    good = tuple(photo for photo in photos if photo.sha256 in known)
    numbers = np.stack([known[photo.sha256][0] for photo in good]) if good else np.zeros((0, _BLUR + 1), np.float32)
    copies = np.stack([known[photo.sha256][1] for photo in good]) if good else np.zeros((0, SIDE, SIDE), np.uint8)
    colours = np.stack([known[photo.sha256][2] for photo in good]) if good else np.zeros((0, TINY, TINY, 2), np.uint8)
    return Looked(
        photos=good,
        pictures=Pictures(
            sizes=numbers[:, [_WIDTH, _HEIGHT]],
            contrast=numbers[:, _CONTRAST],
            darkness=numbers[:, _DARKNESS],
            overexposure=numbers[:, _OVEREXPOSURE],
            blur=numbers[:, _BLUR],
            copies=copies,
            colours=colours,
        ),
        unreadable={photo: reasons[photo.sha256] for photo in photos if photo.sha256 in reasons},
    )


def _measure(photo: Photo) -> _Measured | str:
    """Six numbers, the small and the tiny copy of a photo; why there are none where it cannot be read."""
    try:
        data = photo.path.read_bytes()
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    try:
        image = open_image(data, TRAINING_LIMITS, shrink_for=_REDUCED)
    except ImageError as error:
        return reason(data, error)
    width, height = size_of(image)
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    seen = image
    if min(seen.size) > MEASURED:
        scale = MEASURED / min(seen.size)
        seen = seen.resize((round(seen.width * scale), round(seen.height * scale)), Image.Resampling.LANCZOS)
    contrast = float((np.asarray(seen.convert("L"), dtype=np.float32) / 255.0).std())
    traits = traits_of(np.asarray(seen))
    numbers = [width, height, contrast, traits.darkness, traits.overexposure, traits.blur]
    colours = np.asarray(image.convert("YCbCr").resize((TINY, TINY), Image.Resampling.BOX), dtype=np.uint8)[:, :, 1:]
    return np.array(numbers, dtype=np.float32), np.asarray(small, dtype=np.uint8), colours


@dataclass(frozen=True)
class _Store:
    """Measurements on disk, in chunks that are written whole or not at all."""

    folder: Path

    def read(self) -> dict[str, _Measured]:
        found: dict[str, _Measured] = {}
        for keys in sorted(self.folder.glob("*.json")):
            try:
                arrays = np.load(keys.with_suffix(".npz"), allow_pickle=False)
                columns = (arrays["numbers"], arrays["copies"], arrays["colours"])
                found |= dict(zip(json.loads(keys.read_text()), zip(*columns, strict=True), strict=True))
            except (OSError, ValueError, KeyError):
                # What cannot be read is measured again.
                continue
        return found

    def write(self, found: dict[str, _Measured]) -> None:
        if not found:
            return
        stream = io.BytesIO()
        columns = list(zip(*found.values(), strict=True))
        numbers, copies, colours = map(np.stack, columns)
        np.savez(stream, numbers=numbers, copies=copies, colours=colours)
        name = hashlib.sha256("".join(found).encode()).hexdigest()[:24]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The keys come last: a chunk without its keys does not exist.
            _put(self.folder / f"{name}.npz", stream.getvalue())
            _put(self.folder / f"{name}.json", json.dumps(list(found)).encode())
        except OSError as error:
            raise EnvironmentProblem(f"measurements cannot be cached in {self.folder} ({error.strerror})") from None


def _put(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(data)
    Path(stream.name).replace(path)
