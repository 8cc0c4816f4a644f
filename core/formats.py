"""The image formats that can be read: THE table of names, suffixes, content types, first bytes and readers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class ImageFormat:
    """One format.

    name: how people call it, and Pillow where Pillow reads it; in lower case what `--formats` takes. suffixes: lower
    case, the usual one first. content_type: what the image is sent as. magic: a pattern that the first `HEAD` bytes of
    a file match.

    default: whether it is read unless somebody says otherwise. apart: whether it is decoded in a process of its own,
    because no header tells what decoding will take. package, module, extra: what reads it, where Pillow does not.
    """

    name: str
    suffixes: tuple[str, ...]
    content_type: str
    magic: re.Pattern[bytes]
    default: bool = True
    apart: bool = False
    package: str = ""
    module: str = ""
    extra: str = ""

    @property
    def option(self) -> str:
        """What `--formats` calls it."""
        return self.name.lower()


def _format(name: str, suffixes: str, content_type: str, magic: bytes, **more: str | bool) -> ImageFormat:
    pattern = re.compile(magic, re.DOTALL)
    return ImageFormat(name, tuple(suffixes.split()), content_type, pattern, **more)  # type: ignore[arg-type]


def _brands(*names: bytes) -> bytes:
    """The first box of a file whose main or compatible brands have one of these: mif1 alone does not say the codec."""
    one_of = b"|".join(names)
    return rb".{4}ftyp(?:(?:mif1|msf1|miaf|MA1A|MA1B).{4}(?:.{4}){0,10}?)?(?:" + one_of + rb")"


FORMATS = (
    _format("JPEG", ".jpg .jpeg .jpe .jfif .mpo", "image/jpeg", rb"\xff\xd8\xff"),
    _format("PNG", ".png", "image/png", rb"\x89PNG\r\n\x1a\n"),
    _format("WEBP", ".webp", "image/webp", rb"RIFF.{4}WEBP"),
    _format("AVIF", ".avif .avifs", "image/avif", _brands(rb"avif", rb"avis"), apart=True),
    _format("GIF", ".gif", "image/gif", rb"GIF8[79]a"),
    _format("BMP", ".bmp", "image/bmp", rb"BM"),
    _format("TIFF", ".tif .tiff", "image/tiff", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    _format(
        "HEIC", ".heic .heif .hif .heics .heifs", "image/heic",
        _brands(rb"heic", rb"heix", rb"heim", rb"heis", rb"hevc", rb"hevx", rb"hevm", rb"hevs"),
        default=False, apart=True, package="pillow-heif", module="pillow_heif", extra="heic",
    ),
    _format(
        "JXL", ".jxl", "image/jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
        default=False, apart=True, package="imagecodecs", module="imagecodecs", extra="jxl",
    ),
    _format(
        "JPEG2000", ".jp2 .j2k .jpc .jpf .jpx .j2c", "image/jp2", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        default=False, apart=True,
    ),
)  # fmt: skip
# What `magic` looks at.
HEAD = 64
FORMAT_NAMES = tuple(kind.name for kind in FORMATS)
DEFAULT_FORMATS = tuple(kind.name for kind in FORMATS if kind.default)
# What `--formats` calls them, and what it calls all of those that are read by default.
FORMAT_OPTIONS = tuple(kind.option for kind in FORMATS)
DEFAULT_OPTION = "default"
IMAGE_SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)
_ON_DEMAND = (
    f"{kind.option} (extra {kind.extra})" if kind.extra else kind.option for kind in FORMATS if not kind.default
)
FORMATS_HELP = (
    f"Formats of images to read, separated by commas: {DEFAULT_OPTION} ({', '.join(DEFAULT_FORMATS).lower()}), "
    f"{', '.join(_ON_DEMAND)}; as in default,heic."
)


def format_of(data: bytes) -> ImageFormat | None:
    """The format that an encoded image's first bytes name; None for bytes of none of the table."""
    return next((kind for kind in FORMATS if kind.magic.match(data[:HEAD])), None)


def formats_named(text: str) -> tuple[str, ...]:
    """The names of the formats that an option lists, in the order of the table. Raises `ValueError`.

    ```python
    assert formats_named("default,heic") == (*DEFAULT_FORMATS, "HEIC")
    ```
    """
    wanted = [part.strip().lower() for part in text.split(",") if part.strip()]
    wrong = next((part for part in wanted if part not in (DEFAULT_OPTION, *FORMAT_OPTIONS)), None)
    if wrong is not None or not wanted:
        raise ValueError(
            f"{wrong or text!r} is no image format; choose of {', '.join((DEFAULT_OPTION, *FORMAT_OPTIONS))}"
        )
    chosen = tuple(k for k in FORMATS if k.option in wanted or (k.default and DEFAULT_OPTION in wanted))
    missing = next((kind for kind in chosen if not is_installed(kind)), None)
    if missing is not None:
        raise ValueError(needs(missing))
    return tuple(kind.name for kind in chosen)


@cache
def is_installed(kind: ImageFormat) -> bool:
    """Whether what reads a format is installed."""
    return not kind.module or importlib.util.find_spec(kind.module) is not None


def needs(kind: ImageFormat) -> str:
    """The sentence for a format whose reader is not installed."""
    return f"reading {kind.name} needs {kind.package}: pip install 'oodguard[{kind.extra}]'"


def unread(kind: ImageFormat, allowed: Iterable[str]) -> str | None:
    """Why an image of a known format is not read where only `allowed` formats are; None where it is read."""
    if kind.name not in allowed:
        install = "" if is_installed(kind) else f" (and needs pip install 'oodguard[{kind.extra}]')"
        others = DEFAULT_OPTION if not kind.default else ",".join(name.lower() for name in allowed)
        return f"{kind.name} images are not read here; --formats {others},{kind.option} reads them{install}"
    return None if is_installed(kind) else needs(kind)
