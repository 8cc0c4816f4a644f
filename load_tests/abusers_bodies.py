"""Abusers of bodies and of decoders: what they send is made here from its description."""

from __future__ import annotations

import io
import struct
import zlib

import httpx
from PIL import ExifTags, Image

from oodguard.load_tests.abusers import ADDRESS, Over, Target, abuser, each

JSON = "application/json"
FORM = "multipart/form-data; boundary=b0"
PART = b'--b0\r\nContent-Disposition: form-data; name="a"%s\r\n\r\nx\r\n'


def _post(target: Target, over: Over, path: str, kind: str, body: bytes, *, connections: int = 4) -> None:
    """Post a body again and again."""

    def one() -> None:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=ADDRESS), timeout=30) as client:
            while not over.is_set():
                try:
                    client.post(f"{target.url}{path}", content=body, headers={"content-type": kind})
                except httpx.TransportError:
                    over.wait(0.01)

    each(over, connections, one)


def _infer(target: Target) -> str:
    """The path of inference under /v2."""
    name = httpx.get(f"{target.url}/health/ready").json()["model"]["name"]
    return f"/v2/models/{name}/infer"


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _scanned(side: int, more: int) -> bytes:
    """A progressive grey JPEG of six scans whose last one is there so many times more."""
    data = _encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * more + data[-2:]


@abuser("sends two megabytes of JSON whose elements are no strings")
def wrong_elements(target: Target, over: Over) -> None:
    """A million numbers where strings belong."""
    _post(target, over, "/predict", JSON, b'{"images":[' + b",".join([b"1"] * 1_000_000) + b"]}")


@abuser("sends pixels as JSON, as many as the settings allow")
def many_values(target: Target, over: Over) -> None:
    """A tensor of numbers that is too large for its shape."""
    head = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,1,1,3],"data":['
    _post(target, over, _infer(target), JSON, head + b",".join([b"255"] * 1_900_000) + b"]}]}")


@abuser("sends two megabytes of JSON to /v2 whose inputs are no inputs")
def wrong_inputs(target: Target, over: Over) -> None:
    """A million numbers where objects belong."""
    _post(target, over, _infer(target), JSON, b'{"inputs":[' + b",".join([b"1"] * 1_000_000) + b"]}")


@abuser("sends forms of a hundred thousand parts that are no files")
def form_parts(target: Target, over: Over) -> None:
    """Fields of one and the same name."""
    _post(target, over, "/predict", FORM, PART % b"" * 100_000 + b"--b0--\r\n")


@abuser("sends forms whose parts have as many options as fit")
def form_options(target: Target, over: Over) -> None:
    """Headers that take long to read."""
    _post(target, over, "/predict", FORM, PART % (b";" * 3000) * 100 + b"--b0--\r\n")


@abuser("sends progressive JPEG pictures of more scans than are allowed")
def scans(target: Target, over: Over) -> None:
    """Twice as much work as the settings allow, in a few hundred kilobytes."""
    _post(target, over, "/predict", "image/jpeg", _scanned(5000, 50))


@abuser("sends progressive JPEG pictures of 49 megapixels and as many scans as are allowed")
def allowed_scans(target: Target, over: Over) -> None:
    """The most work that a picture may ask for: 12 scans at 49 megapixels."""
    _post(target, over, "/predict", "image/jpeg", _scanned(7000, 6))


@abuser("sends pictures of 16 bits and of as many pixels as the settings allow")
def wide_pixels(target: Target, over: Over) -> None:
    """A PNG of 49 megapixels in a hundred kilobytes."""
    _post(target, over, "/predict", "image/png", _wide_png())


@abuser("sends twelve pictures of 16 bits in one request")
def wide_dozens(target: Target, over: Over) -> None:
    """The same PNG twelve times in a form."""
    part = b'--b0\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n' % _wide_png()
    _post(target, over, "/predict", FORM, part * 12 + b"--b0--\r\n", connections=2)


@abuser("sends pictures of 32-bit numbers and as many pixels as the settings allow")
def wide_numbers(target: Target, over: Over) -> None:
    """A TIFF of floating-point numbers, packed."""
    data = _encoded(Image.new("F", (7000, 7000), 0.5), "TIFF", compression="tiff_adobe_deflate")
    _post(target, over, "/predict", "image/tiff", data)


@abuser("sends WebP pictures with transparency, as large as memory allows")
def transparent(target: Target, over: Over) -> None:
    """The format whose decoder takes the most memory for each pixel."""
    data = _encoded(Image.new("RGBA", (3980, 3980), (10, 20, 30, 100)), "WEBP", quality=30, method=0)
    _post(target, over, "/predict", "image/webp", data)


@abuser("sends PNG pictures lying on their side, with transparency and as many pixels as the settings allow")
def lying(target: Target, over: Over) -> None:
    """Pictures that are turned, laid over white and made smaller."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGBA", (7000, 7000), (10, 20, 30, 100))
    _post(target, over, "/predict", "image/png", _encoded(image, "PNG", compress_level=1, exif=exif))


def _wide_png() -> bytes:
    """A grey PNG of 16 bits and 49 megapixels, all 0."""
    side = 7000
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(1 + 2 * side)) for _ in range(side)) + pack.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
