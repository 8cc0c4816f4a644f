"""How pictures look, as vectors: what they are grouped by where no bundle gives features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Vectors = npt.NDArray[np.float32]

_GREY, _COLOUR = 16, 8
# Less than this, in grey levels, is one colour: nothing follows from its noise.
_PLAIN = 2.0


def look_of(image: Image.Image) -> Vectors:
    """A unit vector `[384]` of an RGB image: where it is light and dark, and where it has which colour.

    Half of it is a grey copy of 16 x 16 without its mean, half the chroma of a copy of 8 x 8, each of length
    1 / sqrt(2). Pictures of one scene, encoded or cropped a little differently, are less than 0.2 apart (1 - cosine).
    """
    small = image.resize((_GREY, _GREY), Image.Resampling.BOX, reducing_gap=2.0).convert("YCbCr")
    grey = np.asarray(small.getchannel("Y"), dtype=np.float32).ravel()
    coarse = small.resize((_COLOUR, _COLOUR), Image.Resampling.BOX)
    chroma = np.asarray(coarse, dtype=np.float32)[:, :, 1:].ravel() - 128.0
    found = np.concatenate([_unit(grey - grey.mean()), _unit(chroma)])
    length = float(np.linalg.norm(found))
    # One plain grey picture is like another.
    if not length:
        return np.full(len(found), len(found) ** -0.5, dtype=np.float32)
    return (found / length).astype(np.float32)


def _unit(values: Vectors) -> Vectors:
    if float(np.abs(values).mean()) < _PLAIN:
        return np.zeros_like(values)
    found: Vectors = values / np.linalg.norm(values)
    return found
