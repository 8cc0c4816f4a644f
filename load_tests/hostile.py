"""Hostile requests: a corpus of tricky image files made here, and endless seeded mutations of it."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

TYPES = (
    "image/jpeg",
    "image/png",
    "application/octet-stream",
    "application/json",
    "multipart/form-data; boundary=b0",
    "",
)
PNG_MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class Hostile:
    """One request: where it goes, its body, and its content type."""

    path: str
    content_type: str
    body: bytes


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG with any header, however dishonest."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def corpus(seed: int = 0) -> list[bytes]:
    """Valid, odd and dishonest image files, and files that are no images."""
    rng = np.random.default_rng(seed)
    found: list[bytes] = []

    def save(image: Image.Image, kind: str, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())

    for width, height in ((64, 48), (1, 1), (1, 300), (300, 1), (257, 255)):
        image = _picture(rng, width, height)
        for options in ({}, {"progressive": True}, {"quality": 1}, {"subsampling": 0, "optimize": True}):
            save(image, "JPEG", **options)
        for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP"):
            save(image, kind)
    image = _picture(rng, 60, 44)
    for mode in PNG_MODES:
        save(image.convert("L").convert(mode) if mode.startswith("I") else image.convert(mode), "PNG")
    for mode in ("L", "CMYK", "YCbCr"):
        save(image.convert(mode), "JPEG")
    for mode in ("1", "L", "RGBA", "CMYK", "I;16", "F"):
        save(image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        save(image, "TIFF", compression=compression)
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(image, "JPEG", exif=exif)
    frames = [_picture(rng, 40, 40) for _ in range(5)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        save(frames[0], kind, save_all=True, append_images=frames[1:])
    save(image, "WEBP", lossless=True)
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))
    found += [
        _png(65_535, 65_535),
        _png(2**31 - 1, 2**31 - 1),
        _png(0, 10),
        _png(50_000, 900, depth=1, colour=0, data=bytes(1000)),
        _png(10, 10, depth=3),
        _png(10, 10, colour=3, data=bytes(200)),
        _png(8, 8, data=bytes(200), extra=text),
        _png(8, 8, data=bytes(200), extra=_chunk(b"iCCP", b"x\0\0junk") + _chunk(b"eXIf", b"MM\0*" + b"\xff" * 40)),
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\xf7\0\0" + bytes(768) + b";",
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, -5, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(9) + b"\xff\xc0\0\x11\x08\xff\xff\xff\xff\3" + bytes(9) + b"\xff\xd9",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(400),
        b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(60),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%PDF-1.7\n1 0 obj\n", b"PK\3\4" + bytes(60), b"\x7fELF" + bytes(60), b"\x1f\x8b" + bytes(20),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6\n9999999 9999999\n255\n", b"", b"\0", b"hello",
    ]  # fmt: skip
    return found


def mutate(data: bytes, files: list[bytes], rng: random.Random) -> bytes:
    """One to four random injuries."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        choice = rng.randrange(8)
        place = rng.randrange(len(body) + 1)
        if choice == 0 and body:
            for _ in range(rng.choice((1, 1, 2, 8, 64))):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del body[place:]
        elif choice == 2:
            del body[place : place + rng.choice((1, 2, 16, 400))]
        elif choice == 3:
            body[place:place] = rng.randbytes(rng.choice((1, 2, 16, 400)))
        elif choice == 4 and body:
            place = rng.randrange(len(body))
            size = min(rng.choice((1, 2, 4, 8)), len(body) - place)
            body[place : place + size] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80"))[:1] * size
        elif choice == 5:
            other = rng.choice(files)
            body[place:] = other[rng.randrange(len(other) + 1) :]
        elif choice == 6 and body:
            # The header is where sizes, modes and counts live.
            body[rng.randrange(min(64, len(body)))] = rng.randrange(256)
        else:
            start = rng.randrange(len(body) + 1)
            body[place:place] = body[start : start + rng.choice((8, 128))]
    return bytes(body)


def multipart(images: list[bytes], rng: random.Random) -> bytes:
    """A multipart body, one in four with a damaged frame."""
    parts = [
        b'--b0\r\nContent-Disposition: form-data; name="image"; filename="%d.jpg"\r\n\r\n' % i + image + b"\r\n"
        for i, image in enumerate(images)
    ]
    body = b"".join([*parts, b"--b0--\r\n"])
    return mutate(body, [body], rng) if rng.random() < 0.25 else body


def requests(seed: int) -> Iterator[Hostile]:
    """Endless hostile requests; the same seed gives the same ones."""
    files = corpus()
    rng = random.Random(seed)

    def image() -> bytes:
        data = rng.choice(files)
        return mutate(data, files, rng) if rng.random() < 0.9 else data

    while True:
        form = rng.randrange(10)
        if form < 6:
            yield Hostile("/predict", rng.choice(TYPES[:3]), image())
        elif form < 8:
            yield Hostile("/predict", TYPES[4], multipart([image() for _ in range(rng.randint(0, 3))], rng))
        elif form == 8:
            texts = [base64.b64encode(image()).decode() for _ in range(rng.randint(0, 2))]
            text = json.dumps({"images": texts}).encode()
            yield Hostile("/predict", TYPES[3], mutate(text, files, rng) if rng.random() < 0.4 else text)
        else:
            data = image()
            if rng.random() < 0.5:
                yield Hostile("/predict", rng.choice(TYPES), data)
                continue
            tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
            text = json.dumps({"inputs": [tensor]}).encode()
            path = "/v2/models/{name}/infer"
            yield Hostile(path, TYPES[3], mutate(text, files, rng) if rng.random() < 0.4 else text)
