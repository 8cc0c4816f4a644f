"""The ways in which real clients write an image into a request; each is answered at its own index, or refused."""

from __future__ import annotations

import base64
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from oodguard.core.errors import ImageError
from oodguard.server.base64_text import decoded
from oodguard.server.coding import MAX_STREAMS, PIECE, Coding
from oodguard.server.errors import RequestError

BOUNDARY = "XXboundaryXX"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
Part = tuple[str, bytes]


def form(*parts: Part) -> bytes:
    """A multipart body; each part is its header lines and its bytes."""
    body = b"".join(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts)
    return body + f"--{BOUNDARY}--\r\n".encode()


def field(name: str, *lines: str) -> str:
    return "\r\n".join([f"Content-Disposition: form-data; name={name}", *lines])


def indexed(answer: Any) -> list[tuple[int, str | None, str]]:
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["errors"] == []
    return [(p["index"], p.get("file"), p["label"]) for p in document["predictions"]]


@pytest.fixture
def two(client: Any, golden: list[bytes]) -> tuple[Part, Part, list[str]]:
    """Two images of different labels, and the labels."""
    labels = [indexed(client.post("/predict", content=one, headers={"content-type": "image/jpeg"})) for one in golden]
    other = next(place for place, one in enumerate(labels) if one[0][2] != labels[0][0][2])
    return ("", golden[0]), ("", golden[other]), [labels[0][0][2], labels[other][0][2]]


# How a part says that it is a file, and under which name it is answered.
FILES = {
    "curl": (field('"image"; filename="a.jpg"', "Content-Type: image/jpeg"), "a.jpg"),
    "axios, php": (field('"files[]"; filename="a.jpg"'), "a.jpg"),
    "apache httpclient addBinaryBody, spring": (field('"image"', "Content-Type: application/octet-stream"), None),
    "type alone": (field('"photo"', "content-type: image/jpeg; name=x"), None),
    "s3": (field('"photo"', "Content-Type: binary/octet-stream"), None),
    "rfc 5987 alone": (field("\"image\"; filename*=UTF-8''%E2%82%AC%20rates.jpg"), "€ rates.jpg"),
    ".net": (field("image; filename=a.jpg; filename*=utf-8''a.jpg"), "a.jpg"),
    "chrome": (field('"image"; filename="Äpfel und Möhren.jpg"'), "Äpfel und Möhren.jpg"),
    "empty name": (field('"image"; filename=""', "Content-Type: application/octet-stream"), None),
}


@pytest.mark.parametrize(("head", "name"), FILES.values(), ids=FILES)
def test_a_part_is_a_file_by_its_name_or_by_its_type(client: Any, two: Any, head: str, name: str | None) -> None:
    (_, first), (_, second), labels = two
    usual = field('"image"; filename="b.jpg"')
    answer = client.post("/predict", content=form((head, first), (usual, second)), headers=MULTIPART)
    assert indexed(answer) == [(0, name, labels[0]), (1, "b.jpg", labels[1])]
    swapped = client.post("/predict", content=form((usual, second), (head, first)), headers=MULTIPART)
    assert indexed(swapped) == [(0, "b.jpg", labels[1]), (1, name, labels[0])]


@pytest.mark.parametrize("field_name", ["image", "photo"])
def test_text_in_an_images_field_is_refused_and_never_skipped(client: Any, two: Any, field_name: str) -> None:
    _, (_, second), _ = two
    text = (field(f'"{field_name}"'), base64.b64encode(second))
    answer = client.post(
        "/predict", content=form(text, (field('"photo"; filename="b.jpg"'), second)), headers=MULTIPART
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
    assert f"the field '{field_name}' holds text in place of a file" in answer.json()["detail"]


def test_other_fields_are_skipped_within_a_bound(client: Any, two: Any) -> None:
    (_, first), _, labels = two
    image = (field('"image"; filename="a.jpg"'), first)
    note = (field('"note"', "Content-Type: text/plain; charset=utf-8"), b"for the archive")
    assert indexed(client.post("/predict", content=form(note, image), headers=MULTIPART)) == [(0, "a.jpg", labels[0])]
    for repeated in (field('"n"'), field('"n"; filename=""', "Content-Type: application/octet-stream")):
        many = form(*[(repeated, b"")] * 1000, image)
        assert indexed(client.post("/predict", content=many, headers=MULTIPART)) == [(0, "a.jpg", labels[0])]
        answer = client.post("/predict", content=form(*[(repeated, b"")] * 1001, image), headers=MULTIPART)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
        assert "more than 1,000 fields" in answer.json()["detail"]


def test_headers_of_all_parts_are_bounded_together(client: Any, two: Any) -> None:
    (_, first), _, labels = two
    image = (field('"image"; filename="a.jpg"'), first)
    long = (field('"n"', "X-Note: " + 4000 * "n"), b"")
    assert indexed(client.post("/predict", content=form(*[long] * 60, image), headers=MULTIPART))[0][2] == labels[0]
    answer = client.post("/predict", content=form(*[long] * 70, image), headers=MULTIPART)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
    assert "part headers too large" in answer.json()["detail"]


@pytest.mark.parametrize("count", [65, 3000])
def test_options_of_a_part_are_bounded(client: Any, count: int) -> None:
    few = (field('"image"; filename="a.jpg"' + 62 * ";"), b"x")
    assert client.post("/predict", content=form(few), headers=MULTIPART).json()["code"] == "unsupported_type"
    many = (field('"image"' + count * ";"), b"x")
    answer = client.post("/predict", content=form(many), headers=MULTIPART)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
    assert "too many options" in answer.json()["detail"]


def test_a_file_field_that_was_left_empty_is_no_image(client: Any, two: Any) -> None:
    (_, first), _, labels = two
    empty = (field('"other"; filename=""', "Content-Type: application/octet-stream"), b"")
    image = (field('"image"; filename="b.jpg"'), first)
    answer = client.post("/predict", content=form(empty, image, empty), headers=MULTIPART)
    assert indexed(answer) == [(0, "b.jpg", labels[0])]
    alone = client.post("/predict", content=form(empty), headers=MULTIPART)
    assert alone.json()["code"] == "no_images"
    named = client.post(
        "/predict", content=form((field('"a"; filename="a.jpg"'), b""), image), headers=MULTIPART
    ).json()
    assert [(e["index"], e["code"]) for e in named["errors"]] == [(0, "empty")]
    assert [p["index"] for p in named["predictions"]] == [1]


def test_a_part_in_base64_is_decoded(client: Any, two: Any) -> None:
    (_, first), (_, second), labels = two
    coded = field('"image"; filename="a.jpg"', "Content-Transfer-Encoding: base64")
    binary = field('"image"; filename="b.jpg"', "Content-Transfer-Encoding: binary")
    content = form((coded, base64.encodebytes(first)), (binary, second), (coded, b"!"))
    answer = client.post("/predict", content=content, headers=MULTIPART).json()
    assert [(p["index"], p["label"]) for p in answer["predictions"]] == [(0, labels[0]), (1, labels[1])]
    assert [(e["index"], e["code"]) for e in answer["errors"]] == [(2, "bad_base64")]


@pytest.mark.parametrize(
    "preamble", [b"", b"\r\n", b"This is a multi-part message.\r\n", b"--X\r\n\r\nXXboundaryXX\r\n"]
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_text_before_the_first_boundary_is_ignored(client: Any, two: Any, preamble: bytes, step: int) -> None:
    (_, first), _, labels = two
    body = preamble + form((field('"image"; filename="a.jpg"'), first)) + b"text after the end"

    def pieces() -> Iterator[bytes]:
        yield from (body[place : place + step] for place in range(0, len(body), step))

    answer = client.post("/predict", content=pieces(), headers=MULTIPART)
    assert indexed(answer) == [(0, "a.jpg", labels[0])]


def test_a_preamble_is_bounded_and_a_foreign_boundary_is_named(client: Any) -> None:
    for content in (b"a" * 9000, form(("x: y", b"z" * 9000)).replace(b"XX", b"YY")):
        answer = client.post("/predict", content=content, headers=MULTIPART)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
        assert "does not begin with its boundary" in answer.json()["detail"]


# How senders write the same bytes as text.
SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: base64.b64encode(data).decode(),
    "lines of 76": lambda data: base64.encodebytes(data).decode(),
    "windows lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "indented lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\n    "),
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "url-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "unpadded": lambda data: base64.b64encode(data).decode().rstrip("="),
    "data uri": lambda data: f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
    "data uri with a name": lambda data: f"data:image/jpeg;name=a%20b.jpg;base64,{base64.b64encode(data).decode()}",
    "data uri with quotes": lambda data: f'DATA:image/png;charset="utf-8";BASE64,{base64.b64encode(data).decode()}',
    "data uri without a type": lambda data: f"data:;base64,{base64.b64encode(data).decode()}",
    "data uri in percent": lambda data: f"data:image/jpeg;base64,{quote(base64.b64encode(data).decode(), safe='')}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_base64_is_the_same_bytes(spelling: Callable[[bytes], str]) -> None:
    for length in (1, 2, 3, 100, 101, 102):
        data = bytes(range(256))[-length:]
        assert decoded(spelling(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        *("AAAAA", "AA A", "+/-_", "AA==AA==", "AAA==", "A===", "Ä", "data:image/png,AAAA", "data:image/png;base64"),
        *("data:image/png;base64;name=x,AAAA", "AA\0A", "AA=A"),
    ],
)
def test_what_is_damaged_is_refused_and_not_guessed_at(text: str) -> None:
    found = decoded(text)
    assert isinstance(found, ImageError)
    assert found.code == "bad_base64"


@pytest.mark.parametrize("spelling", ["lines of 76", "url-safe, unpadded", "data uri with a name"])
def test_both_routes_read_every_spelling(client: Any, two: Any, spelling: str) -> None:
    (_, first), _, labels = two
    text = SPELLINGS[spelling](first)
    assert indexed(client.post("/predict", json={"images": [text]})) == [(0, None, labels[0])]
    message = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    assert client.post("/v2/models/discs/infer", json=message).json()["outputs"][0]["data"] == [labels[0]]


@pytest.mark.parametrize("kind", ["image/jpeg; charset=binary", "binary/octet-stream", "IMAGE/JPEG", None])
def test_a_raw_image_needs_no_exact_type(client: Any, two: Any, kind: str | None) -> None:
    (_, first), _, labels = two
    answer = client.post("/predict", content=first, headers={"content-type": kind} if kind else {})
    assert indexed(answer) == [(0, None, labels[0])]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json"])
def test_json_by_other_names_and_with_a_byte_order_mark(client: Any, two: Any, kind: str) -> None:
    (_, first), _, labels = two
    content = b"\xef\xbb\xbf" + json.dumps({"images": [base64.b64encode(first).decode()]}).encode()
    assert indexed(client.post("/predict", content=content, headers={"content-type": kind})) == [(0, None, labels[0])]


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def zstandard(data: bytes) -> bytes:
    found: bytes = pytest.importorskip("backports.zstd").compress(data)
    return found


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": (" X-GZip ", gzip.compress),
    "gzip in two": ("identity, gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard),
}


@pytest.mark.parametrize(("name", "compress"), CODINGS.values(), ids=CODINGS)
def test_a_compressed_body_is_the_body(client: Any, two: Any, name: str, compress: Callable[[bytes], bytes]) -> None:
    (_, first), (_, second), labels = two
    coded = {"content-encoding": name}
    raw = client.post("/predict", content=compress(first), headers={"content-type": "image/jpeg"} | coded)
    assert indexed(raw) == [(0, None, labels[0])]
    parts = form((field('"image"; filename="a.jpg"'), first), (field('"image"; filename="b.jpg"'), second))
    multipart = client.post("/predict", content=compress(parts), headers=MULTIPART | coded)
    assert indexed(multipart) == [(0, "a.jpg", labels[0]), (1, "b.jpg", labels[1])]
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(second) + 4}}
    message = json.dumps({"inputs": [tensor]}).encode()
    content = compress(message + len(second).to_bytes(4, "little") + second)
    headers = coded | {"inference-header-content-length": str(len(message))}
    answer = client.post("/v2/models/discs/infer", content=content, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [labels[1]]


@pytest.mark.parametrize(("name", "compress"), CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("step", [1, 4096])
def test_nothing_is_lost_between_pieces_and_none_is_large(
    name: str, compress: Callable[[bytes], bytes], step: int
) -> None:
    data = os.urandom(3000) + bytes(PIECE * 3) + os.urandom(3000)
    body = compress(data)
    coding = Coding.of(name)
    assert coding is not None
    pieces = [piece for place in range(0, len(body), step) for piece in coding.pieces(body[place : place + step])]
    coding.finish()
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize(("name", "compress"), CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("route", ["/predict", "/v2/models/discs/infer"])
def test_what_a_body_decompresses_to_is_bounded(
    start: Any, name: str, compress: Callable[[bytes], bytes], route: str
) -> None:
    client = start(max_body_bytes=200_000, max_queue_bytes=400_000)
    for size, expected in ((150_000, {400, 415}), (30_000_000, {413})):
        body = compress(bytes(size))
        assert len(body) < 200_000
        answer = client.post(route, content=body, headers={"content-encoding": name, "content-type": "image/png"})
        assert answer.status_code in expected, answer.text
    assert "larger than 200,000 bytes when it is decompressed" in answer.text
    assert (client.parts.admission.bytes, client.parts.admission.images) == (0, 0)


@pytest.mark.parametrize(
    ("name", "body", "word"),
    [
        ("gzip", b"not gzip at all", "is not gzip"),
        ("gzip", gzip.compress(b"abc" * 999, mtime=0)[:-9], "ends early"),
        ("gzip", gzip.compress(b"abc", mtime=0)[:5], "ends early"),
        ("gzip", gzip.compress(b"", mtime=0) * (MAX_STREAMS + 1), "goes on behind"),
        ("deflate", b"\x78", "ends early"),
        ("deflate", zlib.compress(b"abc") + b"more", "goes on behind"),
        ("deflate", b"\xff\xff\xff\xff", "is not deflate"),
    ],
)
@pytest.mark.parametrize("route", ["/predict", "/v2/models/discs/infer"])
def test_what_is_not_of_its_coding_is_refused(client: Any, name: str, body: bytes, word: str, route: str) -> None:
    answer = client.post(route, content=body, headers={"content-encoding": name, "content-type": "image/png"})
    assert answer.status_code == 400
    assert "bad_body" in answer.text
    assert word in answer.text


def test_a_zstd_window_is_bounded() -> None:
    zstd = pytest.importorskip("backports.zstd")
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(bytes(PIECE)) + compressor.flush()
    coding = Coding.of("zstd")
    assert coding is not None
    with pytest.raises(RequestError, match="is not zstd"):
        list(coding.pieces(body))
