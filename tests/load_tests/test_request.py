from __future__ import annotations

import base64
import json

import pytest

from oodguard.load_tests.request import KINDS, Request, requests_of


def test_a_request_is_whole_on_the_wire() -> None:
    request = Request("/predict", "raw", b"\xff\xd8\r\n", {"content-type": "image/jpeg"})
    head, _, body = request.encode().partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /predict HTTP/1.1",
        b"host: localhost",
        b"content-type: image/jpeg",
        b"content-length: 4",
    ]
    assert body == b"\xff\xd8\r\n"


def test_a_form_holds_the_images_unchanged() -> None:
    request = KINDS["multipart"]([b"\xff\xd8\r\n--x", b"two"])
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    _, first, second, end = request.content.split(b"--" + boundary)
    assert first.startswith(b'\r\nContent-Disposition: form-data; name="image"; filename="0.jpg"\r\n')
    assert [part.partition(b"\r\n\r\n")[2] for part in (first, second)] == [b"\xff\xd8\r\n--x\r\n", b"two\r\n"]
    assert end == b"--\r\n"
    assert request.images == 2


def test_json_holds_the_images_as_base64() -> None:
    request = KINDS["json"]([b"one", b"two"])
    assert [base64.b64decode(text) for text in json.loads(request.content)["images"]] == [b"one", b"two"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_travel_one_by_one(kind: str) -> None:
    found = requests_of(kind, [b"one", b"two"])
    assert [(request.kind, request.images) for request in found] == [(kind, 1), (kind, 1)]
    assert found[0].content != found[1].content
