"""Images as request bodies of `POST /predict`: the three kinds that the server takes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

BOUNDARY = "oodguard-load-test-boundary"


@dataclass(frozen=True)
class Body:
    """The bytes of a request, their content type, and how many images are in them."""

    kind: str
    content_type: str
    content: bytes
    images: int


def raw_body(image: bytes) -> Body:
    """One image as the whole body."""
    return Body("raw", "application/octet-stream", image, 1)


def multipart_body(images: Sequence[bytes]) -> Body:
    """Images as the files of a form."""
    parts = []
    for index, image in enumerate(images):
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{index}.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        parts.append(head.encode() + image + b"\r\n")
    content = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return Body("multipart", f"multipart/form-data; boundary={BOUNDARY}", content, len(images))


def json_body(images: Sequence[bytes]) -> Body:
    """Images as base64 in JSON."""
    content = json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
    return Body("json", "application/json", content, len(images))
