"""Settings that are written as text of a certain form: what the form is, and the sentence about any other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from oodguard.core.formats import formats_named
from oodguard.core.preprocessing import ImageLimits

# As browsers write an origin: nothing behind the port, and lower case, since they compare text.
ORIGIN = r"^https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?$"
ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"
WEIGHT = r"^[A-Za-z0-9._-]{1,64}=(?=.*[1-9])[0-9]{1,4}(\.[0-9]{1,4})?$"


def _each(text: str, *, form: str, sentence: str) -> str:
    """A list, separated by commas, each of whose entries has a form. Raises `ValueError`."""
    wrong = next((part for part in text.split(",") if not re.match(form, part)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} {sentence}")
    return text


def _whole(text: str, *, form: str, sentence: str) -> str:
    """A text of a form. Raises `ValueError`."""
    if not re.match(form, text):
        raise ValueError(f"{text!r} {sentence}")
    return text


def _formats(text: str) -> str:
    formats_named(text)
    return text


# By setting: gives the text back, or raises `ValueError`.
TEXTS: Mapping[str, Callable[[str], str]] = {
    "formats": _formats,
    "triton_url": partial(_each, form=ADDRESS, sentence="is not HOST:PORT of a gRPC service, as in localhost:8001"),
    "cors_origins": partial(_each, form=ORIGIN, sentence="is not an origin as in https://shop.example (no path, no *)"),
    "key_weights": partial(_each, form=WEIGHT, sentence="is not the name of a key and its weight, as in alice=4"),
    "sample_store": partial(
        _whole,
        form=r"^(s3|gs|az)://[^\s/?#@]+(/[^\s?#]*)?$",
        sentence="is not an address as in s3://bucket/prefix",
    ),
    "sample_webhook": partial(
        _whole,
        form=r"^https?://[^\s/?#@]+(/[^\s#]*)?$",
        sentence="is not an address as in https://example.com/flagged",
    ),
    "traces_endpoint": partial(
        _whole, form=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", sentence="is not an address as in http://localhost:4318"
    ),
}


def weights_of(text: str | None) -> dict[str, float]:
    """The weights of a list such as alice=4,bob=0.5, by name."""
    pairs = (part.split("=") for part in (text or "").split(",") if part)
    return {name: float(weight) for name, weight in pairs}


def limits_of(max_bytes: int, max_pixels: int, max_work: int, formats: str) -> ImageLimits:
    """The limits of one image, of the formats that a text such as default,heic names."""
    return ImageLimits(max_bytes=max_bytes, max_pixels=max_pixels, max_work=max_work, formats=formats_named(formats))
