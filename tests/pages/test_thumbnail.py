from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from oodguard.pages.thumbnail import thumbnail


def decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def test_a_thumbnail_is_small_and_shows_the_whole_image() -> None:
    pixels = np.zeros((400, 800, 3), dtype=np.uint8)
    pixels[:, 400:] = 255
    uri = thumbnail(Image.fromarray(pixels))
    image = decoded(uri)
    assert image.size == (160, 80)
    assert np.asarray(image)[40, 10].max() < 30
    assert np.asarray(image)[40, 150].min() > 225
    assert len(uri) < 4000


def test_small_images_are_not_blown_up() -> None:
    assert decoded(thumbnail(Image.new("RGB", (20, 10)))).size == (20, 10)


def test_what_a_camera_wrote_is_left_behind() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new("RGB", (300, 300), "red").save(stream, "JPEG", exif=exif, comment=b"at home")
    source = Image.open(stream)
    image = decoded(thumbnail(source.convert("RGB")))
    assert not image.getexif()
    assert "comment" not in image.info
