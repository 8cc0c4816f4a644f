"""The process that decodes a picture for another: `python -m oodguard.core.apart_worker`, asked over its pipes.

For each picture it is given a line of JSON and the encoded bytes, answers with the size, and waits for the limits of
memory and processor time; then it decodes and answers with the pixels. Beyond the limits the kernel ends it.
"""

from __future__ import annotations

import io
import json
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageOps

from oodguard.core.heif_header import transfer_of
from oodguard.core.jxl_header import HLG, PQ, JxlHeader
from oodguard.core.rgb import as_rgb

if sys.platform != "win32":
    import resource

# Seconds of processor time that opening a file may take, which decodes nothing.
OPENING = 2.0
# Pixels that are sent at once.
BAND = 1 << 20
GO = struct.Struct("<dQ")
Numbers = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
HDR = {PQ: "PQ", HLG: "HLG"}


class Refusal(Exception):
    """A picture that is read right by nobody here; the text says why."""


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Decode what is asked for until the requests end."""
    Image.MAX_IMAGE_PIXELS = None
    # More threads than one would need memory that nobody counts.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    while line := requests.readline():
        asked = json.loads(line)
        data = requests.read(asked["bytes"])
        try:
            _limit(OPENING, None)
            picture = _PICTURES[asked["format"]](data)
            _answer(answers, {"size": picture.size})
            go = requests.read(GO.size)
            if len(go) < GO.size:
                return
            seconds, memory = GO.unpack(go)
            if seconds <= 0:
                continue
            _limit(seconds, memory)
            found = picture.rgb()
            if found.size != picture.size:
                raise OSError(f"its header says {picture.size}, and its picture is {found.size}")
        except Refusal as error:
            _answer(answers, {"refused": str(error)})
            continue
        except Exception as error:  # decoders raise almost any type on damaged input
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _answer(answers, {"memory" if isinstance(error, MemoryError) else "damaged": reason})
            continue
        finally:
            _limit(0, None)
        _answer(answers, {})
        _send(answers, found)


def _answer(answers: IO[bytes], found: dict[str, Any]) -> None:
    answers.write(json.dumps(found).encode() + b"\n")
    answers.flush()


def _send(answers: IO[bytes], image: Image.Image) -> None:
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        answers.write(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    answers.flush()


def _limit(seconds: float, memory: int | None) -> None:
    """Let this process use so many more seconds and bytes; None: as many as there are."""
    if sys.platform == "win32":
        return
    # Ends the process, also inside a decoder.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = most
    if memory is not None:
        with suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            wanted = pages * resource.getpagesize() + memory
            wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


class _Pillow:
    """A picture that Pillow decodes: AVIF and JPEG 2000, and HEIC with its plugin."""

    def __init__(self, data: bytes, name: str) -> None:
        self._image = Image.open(io.BytesIO(data), formats=[name])
        upside = self._image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        self.size = self._image.size[::-1] if upside else self._image.size

    def rgb(self) -> Image.Image:
        self._image.load()
        ImageOps.exif_transpose(self._image, in_place=True)
        return as_rgb(self._image)


def _avif(data: bytes) -> _Pillow:
    _require_sdr(transfer_of(data))
    return _Pillow(data, "AVIF")


def _heic(data: bytes) -> _Pillow:
    import pillow_heif

    _require_sdr(transfer_of(data))
    # It turns the picture itself, and takes the orientation out of its EXIF.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return _Pillow(data, "HEIF")


def _jpeg2000(data: bytes) -> _Pillow | _Deep:
    bits = jpeg2000_bits(data)
    if bits <= 8:
        return _Pillow(data, "JPEG2000")
    # Pillow rounds the white of more than 8 bits up to 256, which a byte holds as 0.
    try:
        import imagecodecs

        decode = imagecodecs.jpeg2k_decode
    except ImportError:
        raise Refusal(f"its numbers have {bits} bits, which needs imagecodecs: pip install 'oodguard[jxl]'") from None
    return _Deep(_Pillow(data, "JPEG2000").size, bits, lambda: decode(data, numthreads=1))


def jpeg2000_bits(data: bytes) -> int:
    """The bits of the numbers of a JPEG 2000 file, by its first codestream. Raises `ValueError` where it has none."""
    place = data.index(b"\xff\x4f\xff\x51")
    (channels,) = struct.unpack_from(">H", data, place + 40)
    depths = data[place + 42 : place + 42 + 3 * channels : 3]
    if any(depth & 0x80 for depth in depths):
        raise Refusal("its numbers have signs, of which nobody says which is white")
    return 1 + max(depths)


def _jxl(data: bytes) -> _Deep:
    # Before any memory is counted: it loads what it needs when it is asked for it.
    from imagecodecs import jpegxl_decode

    header = JxlHeader.of(data)
    _require_sdr(header.transfer)
    if header.bits is None:
        raise Refusal("its pixels are floating-point numbers, of which nobody says which is white")
    # It turns the picture itself.
    return _Deep(header.size, header.bits, lambda: jpegxl_decode(data, index=0, numthreads=1))


class _Deep:
    """A picture that imagecodecs decodes: to bytes, or to numbers of so many bits."""

    def __init__(self, size: tuple[int, int], bits: int, decode: Callable[[], Numbers]) -> None:
        self.size = size
        self._most, self._decode = (1 << bits) - 1, decode

    def rgb(self) -> Image.Image:
        numbers = self._decode()
        numbers = numbers.reshape(self.size[1], self.size[0], -1)
        pixels = np.empty(numbers.shape, np.uint8)
        # A row at a time, so that little is held beside the picture.
        for row, into in zip(numbers, pixels, strict=True):
            into[:] = (np.asarray(row, np.uint32) * 255 + self._most // 2) // self._most
        return as_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels, _MODES[pixels.shape[2]]))


_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def _require_sdr(transfer: int | None) -> None:
    if transfer in HDR:
        raise Refusal(f"it is HDR ({HDR[transfer]}), whose brightness would be read wrong; save it as SDR")


_PICTURES = {"AVIF": _avif, "HEIC": _heic, "JPEG2000": _jpeg2000, "JXL": _jxl}

if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
