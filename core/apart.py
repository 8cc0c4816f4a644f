"""Pictures that are decoded in a process of their own, which the kernel ends where it takes more than it was given.

No header of these formats tells what decoding takes: frames that nobody sees, grids of grids, trees that each pixel is
led through. A process is kept for the next picture unless it has died.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from PIL import Image, ImageFile

from oodguard.core.apart_worker import BAND, GO
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.formats import ImageFormat

# Bytes that a decoder may take for each pixel: 10 bits of HEIC take the most. And what it may take besides.
BESIDE = 21
SLACK = 64 * 1024 * 1024
# Steps of work that a decoder may take for each pixel, of about a nanosecond; and how many steps a second of processor
# time stands for, which is meant for a slow machine.
PASSES = 10
STEPS_PER_SECOND = 100_000_000
# Processes that wait for the next picture.
KEPT = 8
# Of the environment a decoder is given what starting needs, and no secrets.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "TMPDIR", "SSL_CERT_FILE")
# Blocks of such a size go back to the kernel when they are freed.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class PictureApart(ImageFile.ImageFile):
    """An encoded picture whose pixels another process decodes: upright and RGB, the first frame of several.

    ```python
    with PictureApart(io.BytesIO(data), kind, most_work=600_000_000) as image:
        image.load()
    ```

    Opening tells the size, and `load` decodes. Raises `ImageError`.
    """

    def __init__(self, stream: IO[bytes], kind: ImageFormat, *, most_work: int) -> None:
        self.format = kind.name
        self._seconds = max(1.0, most_work / STEPS_PER_SECOND)
        self._process: _Process | None = None
        super().__init__(stream)

    def _open(self) -> None:
        if sys.platform == "win32":
            raise ImageError(Code.UNSUPPORTED_TYPE, f"{self.format} images are not read on Windows; send a JPEG or PNG")
        assert self.fp is not None
        data = self.fp.read()
        self._process = _Process.idle()
        try:
            self._process.send(json.dumps({"format": self.format, "bytes": len(data)}).encode() + b"\n", data)
            width, height = self._answer()["size"]
        except BaseException:
            self._end()
            raise
        self._size, self._mode, self.tile = (width, height), "RGB", []

    def load(self) -> Any:
        """Decode the picture, once. Raises `ImageError`."""
        if self._process is not None:
            width, height = self.size
            try:
                self._process.send(GO.pack(self._seconds, BESIDE * width * height + SLACK))
                self._answer()
                self._im = self._pixels().im
            except BaseException:
                self._end()
                raise
            self._process.keep()
            self._process = None
        return Image.Image.load(self)

    def _pixels(self) -> Image.Image:
        width, height = self.size
        found, rows = Image.new("RGB", self.size), max(1, BAND // width)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            band = self._process.read(3 * width * count) if self._process else b""
            if len(band) < 3 * width * count:
                raise self._died()
            found.paste(Image.frombuffer("RGB", (width, count), band, "raw", "RGB", 0, 1), (0, top))
        return found

    def _answer(self) -> dict[str, Any]:
        """The next line of the process. Raises `ImageError` for one that says why there is no picture."""
        assert self._process is not None
        line = self._process.line()
        if not line:
            raise self._died()
        found: dict[str, Any] = json.loads(line)
        said = next((key for key in ("refused", "memory", "damaged") if key in found), None)
        if said is None:
            return found
        self._process.keep()
        self._process = None
        if said == "memory":
            raise ImageError(Code.TOO_MANY_PIXELS, _MEMORY)
        if said == "refused":
            raise ImageError(Code.UNSUPPORTED_TYPE, f"the {self.format} image cannot be used: {found[said]}")
        raise ImageError(Code.CANNOT_DECODE, f"the image is damaged and cannot be decoded ({found[said]})")

    def _died(self) -> ImageError:
        status = self._process.end() if self._process else 0
        self._process = None
        if status == -signal.SIGPROF:
            return ImageError(
                Code.TOO_MUCH_WORK,
                f"decoding the image takes more than {self._seconds:g} s of processor time, which --max-decode-work "
                "allows; save it again as an ordinary JPEG or PNG",
            )
        if status == -signal.SIGKILL:
            return ImageError(Code.TOO_MANY_PIXELS, _MEMORY)
        return ImageError(Code.CANNOT_DECODE, f"the image is damaged and cannot be decoded (it ended the {self.format} "
                          "decoder)")  # fmt: skip

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _release(self) -> None:
        """Let the process go where nobody has asked for the pixels."""
        if self._process is not None:
            self._process.send(GO.pack(0, 0))
            self._process.keep()
            self._process = None

    def close(self) -> None:
        """Close the picture, and let its process go."""
        self._release()
        super().close()

    def __exit__(self, *arguments: object) -> None:
        self._release()
        super().__exit__(*arguments)


_MEMORY = "decoding the image takes more memory than its size gives it (--max-decode-bytes); send it smaller"


class _Process:
    """One decoder."""

    _idle: ClassVar[list[_Process]] = []
    _guard = threading.Lock()

    def __init__(self) -> None:
        import oodguard

        home = str(Path(oodguard.__file__).parents[1])
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "oodguard.core.apart_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, **_MALLOC, **_THREADS, "PYTHONPATH": os.pathsep.join((home, *filter(None, sys.path)))},
            start_new_session=True,
        )

    @classmethod
    def idle(cls) -> _Process:
        """One that waits, or else a new one. Raises `ImageError` where none can be started."""
        with cls._guard:
            while cls._idle:
                found = cls._idle.pop()
                if found._child.poll() is None:
                    return found
                found.end()
        try:
            return cls()
        except OSError as error:
            raise ImageError(Code.CANNOT_DECODE, f"no decoder can be started ({error.strerror})") from None

    def keep(self) -> None:
        """Wait for the next picture."""
        with self._guard:
            if len(self._idle) < KEPT:
                self._idle.append(self)
                return
        self.end()

    def send(self, *parts: bytes) -> None:
        assert self._child.stdin is not None
        # What it died of, the answer says.
        with suppress(BrokenPipeError):
            for part in parts:
                self._child.stdin.write(part)
            self._child.stdin.flush()

    def line(self) -> bytes:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def read(self, size: int) -> bytes:
        assert self._child.stdout is not None
        return self._child.stdout.read(size)

    def end(self) -> int:
        """End it, and return how it ended."""
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            # It may be about to say what it died of.
            return self._child.wait(1)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    @classmethod
    def end_all(cls) -> None:
        with cls._guard:
            waiting, cls._idle = cls._idle, []
        for one in waiting:
            one.end()

    @classmethod
    def forget(cls) -> None:
        """After a fork: the decoders are the other process's."""
        cls._guard = threading.Lock()
        for one in cls._idle:
            # Neither waited for nor reported as lost.
            one._child.returncode = 0
        cls._idle = []


atexit.register(_Process.end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.forget)
