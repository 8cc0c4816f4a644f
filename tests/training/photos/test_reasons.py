from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from oodguard.core.errors import ImageError
from oodguard.core.formats import FORMATS
from oodguard.core.preprocessing import open_image
from oodguard.training.photos.reasons import content, reason

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def refused(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(data)
    return reason(data, caught.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty (0 bytes)"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n <!-- saved --> <HTML><head>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML file"),
        (b"%PDF-1.4\n1 0 obj<<>>endobj\n", "a PDF document"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"PK\x03\x04\x14\0\0\0", "an archive"),
        (b"\0\0\1\0\1\0", "an icon"),
        (bytes(100), "nothing but zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; fetch the photo itself "
         "with git lfs pull"),
        ("caf\u00e9 - ".encode() * 1000, "text"),
        (b"\x01\x02\xff\x00nothing", "not an image of a supported type"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(data: bytes, what: str) -> None:
    assert refused(data) == what
    assert content(data[:4096]) == what


@pytest.mark.parametrize("name", [kind.name for kind in FORMATS if not kind.apart])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_ends_early_is_cut_short(name: str, share: float) -> None:
    stream = io.BytesIO()
    NOISE.save(stream, name)
    data = stream.getvalue()
    assert refused(data[: int(share * len(data))]) == f"cut short: a {name} file without its end"


def test_a_whole_file_with_wrong_bytes_is_damaged() -> None:
    stream = io.BytesIO()
    NOISE.save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[200:4000] = bytes(3800)
    assert refused(bytes(data)) == "a damaged PNG file"
