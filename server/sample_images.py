"""The images to try that a server offers: what they were at its start, and nothing that has taken their place."""

from __future__ import annotations

import hashlib
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.formats import format_of
from oodguard.server.card import sample_files
from oodguard.server.model import ServedModel
from oodguard.server.settings import ServeSettings


class SampleImages:
    """The images of the settings, read once, or else the golden images of the model that is served.

    Raises `InputError` for a file of the settings that is no image that the server takes, or too large.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._own = tuple(_image(path, settings.max_image_bytes) for path in settings.samples)

    def count(self, model: ServedModel) -> int:
        """How many there are."""
        return len(sample_files(model, self._settings))

    def read(self, model: ServedModel, number: int) -> bytes | None:
        """One image; None for a golden image that is no longer the file whose hash was verified."""
        if self._own:
            return self._own[number]
        path, golden = sample_files(model, self._settings)[number], model.manifest.golden[number]
        sha256 = next(ref.sha256 for ref in model.manifest.files if ref.path == golden.path)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _image(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise InputError(f"sample {path} cannot be read ({error.strerror or error})") from None
    if len(data) > most or format_of(data) is None:
        raise InputError(f"sample {path} is not an image that this server takes")
    return data
