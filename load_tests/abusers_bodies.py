"""Abusers of bodies and of decoders: what they send is made here from its description."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
from PIL import Image

from oodguard.load_tests.abusers import ADDRESS, Over, Target, abuser

JSON = "application/json"
FORM = "multipart/form-data; boundary=b0"
PART = b'--b0\r\nContent-Disposition: form-data; name="a"%s\r\n\r\nx\r\n'


def _post(target: Target, over: Over, path: str, kind: str, body: bytes, *, connections: int = 4) -> None:
    """Post a body again and again."""

    def one() -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS)
        with httpx.Client(transport=transport, timeout=30) as client:
            while not over.is_set():
                try:
                    client.post(
                        f"http://{target.host}:{target.port}{path}", content=body, headers={"content-type": kind}
                    )
                except httpx.TransportError:
                    over.wait(0.01)

    with ThreadPoolExecutor(connections) as pool:
        for _ in range(connections):
            pool.submit(one)


@abuser("sends two megabytes of JSON whose elements are no strings")
def wrong_elements(target: Target, over: Over) -> None:
    """A million numbers where strings belong."""
    _post(target, over, "/predict", JSON, b'{"images":[' + b",".join([b"1"] * 1_000_000) + b"]}")


@abuser("sends pixels as JSON, as many as the settings allow")
def many_values(target: Target, over: Over) -> None:
    """A tensor of numbers that is too large for its shape."""
    head = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,1,1,3],"data":['
    _post(target, over, "/predict", JSON, head + b",".join([b"255"] * 1_900_000) + b"]}]}")


@abuser("sends forms of a hundred thousand parts that are no files")
def form_parts(target: Target, over: Over) -> None:
    """Fields of one and the same name."""
    _post(target, over, "/predict", FORM, PART % b"" * 100_000 + b"--b0--\r\n")


@abuser("sends forms whose parts have as many options as fit")
def form_options(target: Target, over: Over) -> None:
    """Headers that take long to read."""
    _post(target, over, "/predict", FORM, PART % (b";" * 3000) * 100 + b"--b0--\r\n")


@abuser("sends progressive JPEG pictures of many scans")
def scans(target: Target, over: Over) -> None:
    """The last scan of a grey picture, repeated; twice as much work as the settings allow."""
    stream = io.BytesIO()
    Image.new("L", (5000, 5000), 128).save(stream, "JPEG", progressive=True, quality=50)
    data = stream.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    _post(target, over, "/predict", "image/jpeg", data[:-2] + last * 50 + data[-2:])


@abuser("sends pictures of 16 bits and of as many pixels as the settings allow")
def wide_pixels(target: Target, over: Over) -> None:
    """A PNG of 49 megapixels in a hundred kilobytes."""
    side = 7000
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(1 + 2 * side)) for _ in range(side)) + pack.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    _post(target, over, "/predict", "image/png", b"\x89PNG\r\n\x1a\n" + body)
