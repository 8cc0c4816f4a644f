"""What Pillow raises, as this project's own errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from oodguard.core.codes import Code
from oodguard.core.decoding import HeavyPicture
from oodguard.core.errors import ImageError
from oodguard.core.formats import DEFAULT_FORMATS


@contextmanager
def refusals(formats: Sequence[str] = DEFAULT_FORMATS) -> Iterator[None]:
    """Whatever Pillow raises, as an `ImageError`; `formats` are those that are read."""
    try:
        yield
    except (ImageError, HeavyPicture):
        raise
    except UnidentifiedImageError:
        raise ImageError(Code.UNSUPPORTED_TYPE, f"not an image of a supported type ({', '.join(formats)})") from None
    except MemoryError:
        raise ImageError(Code.TOO_MANY_PIXELS, "the image needs more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise almost any type on damaged input
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(Code.CANNOT_DECODE, f"the image is damaged and cannot be decoded ({reason})") from None
