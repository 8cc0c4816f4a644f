"""A request of a load test, and images as the bodies of `POST /predict`: the three kinds that the server takes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BOUNDARY = "oodguard-load-test-boundary"


@dataclass(frozen=True)
class Request:
    """One POST: where it goes, its kind of body, the bytes, their headers, and how many images it holds."""

    path: str
    kind: str
    content: bytes
    headers: Mapping[str, str]
    images: int = 1

    def encode(self) -> bytes:
        """The request on the wire, over a connection that is kept."""
        headers = {"host": "localhost", **self.headers, "content-length": str(len(self.content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.content


def _predict(kind: str, content_type: str, content: bytes, images: int) -> Request:
    return Request("/predict", kind, content, {"content-type": content_type}, images)


def raw(images: Sequence[bytes]) -> Request:
    """The first image as the whole body."""
    return _predict("raw", "image/jpeg", images[0], 1)


def multipart(images: Sequence[bytes]) -> Request:
    """Images as the files of a form."""
    parts = []
    for index, image in enumerate(images):
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{index}.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        parts.append(head.encode() + image + b"\r\n")
    content = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return _predict("multipart", f"multipart/form-data; boundary={BOUNDARY}", content, len(images))


def as_json(images: Sequence[bytes]) -> Request:
    """Images as base64 in JSON."""
    content = json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
    return _predict("json", "application/json", content, len(images))


KINDS: Mapping[str, Callable[[Sequence[bytes]], Request]] = {"raw": raw, "multipart": multipart, "json": as_json}


def requests_of(kind: str, images: Sequence[bytes]) -> list[Request]:
    """Each image in a request of its own."""
    return [KINDS[kind]([image]) for image in images]
