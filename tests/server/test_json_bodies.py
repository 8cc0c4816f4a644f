"""JSON is counted before it is parsed, and parsed to its first fault only."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from oodguard.server import json_bodies
from oodguard.server.base64_text import SHORT_LINES, decoded
from oodguard.server.errors import RequestError
from oodguard.server.json_bodies import require_small_json

JSON = {"content-type": "application/json"}


def counts(text: bytes, strings: int = 1000, values: int = 1000, size: int = 1000) -> str | None:
    """The code of a refusal; None where there is none."""
    try:
        require_small_json(text, most_bytes=size, most_strings=strings, most_values=values)
    except RequestError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("text", "strings", "values"),
    [
        (b"", 0, 0),
        (b'{"a": "b", "c": [1, 2]}', 3, 4),
        (b'["a,b[{", "c"]', 2, 2),
        (rb'["a\",[,", "\\", "b"]', 3, 3),
        (rb'["\\\\\"", [[]]]', 1, 4),
        (b'["never ends,,,,', 1, 1),
        (rb'["\", never ends,,,,', 1, 1),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 65536])
def test_strings_and_values_are_counted_outside_strings(
    text: bytes, strings: int, values: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bodies, "STEP", step)
    assert counts(text, strings, values) is None
    if strings:
        assert counts(text, strings - 1, values) == "too_many_files"
    if values:
        assert counts(text, strings, values - 1) == "bad_body"


def test_bytes_are_bounded() -> None:
    assert counts(b"[]", size=2) is None
    assert counts(b"[] ", size=2) == "body_too_large"


def test_a_body_of_wrong_elements_is_refused_at_the_first(client: Any) -> None:
    few = client.post("/predict", content=b'{"images":[' + b",".join([b"1"] * 900) + b"]}", headers=JSON)
    assert few.json()["detail"] == "the JSON body does not fit: images.0: Input should be a valid string"
    many = client.post("/predict", content=b'{"images":[' + b",".join([b"1"] * 50_000) + b"]}", headers=JSON)
    assert (few.status_code, many.status_code) == (400, 400)
    assert "holds more than 1,104 values" in many.json()["detail"]
    strings = client.post("/predict", json={"images": ["x"] * 2000})
    assert (strings.status_code, strings.json()["code"]) == (413, "too_many_files")


def infer(client: Any, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/v2/models/discs/infer", content=content, headers=JSON)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1.5] * 500}]}, "inputs.0.shape.0: "),
        ({"inputs": [1] * 500}, "inputs.0: "),
        ({"outputs": [{}] * 500}, "outputs.0.name: Field required"),
    ],
)
def test_every_list_of_v2_ends_at_its_first_fault(client: Any, change: Any, reason: str) -> None:
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["x"]}]} | change
    answer = infer(client, body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_values_of_v2_are_bounded_by_the_setting_and_pixels_fit(start: Any, bundle: Any) -> None:
    pixels = 72 * 72 * 3
    client = start(max_json_values=pixels + 20)
    shape = list(client.parts.serving.model.manifest.preprocessing.shape)
    assert shape == [72, 72, 3]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, *shape], "data": [7] * pixels}
    assert infer(client, {"inputs": [tensor]}).status_code == 200
    two = tensor | {"shape": [2, *shape], "data": [7] * 2 * pixels}
    answer = infer(client, {"inputs": [two]})
    assert answer.status_code == 400
    assert "values; send one string for each image, or tensors in binary" in answer.json()["error"]


def test_the_limit_of_json_is_its_own(start: Any, golden: list[bytes]) -> None:
    client = start(max_json_bytes=1000)
    assert client.post("/predict", content=golden[0], headers={"content-type": "image/jpeg"}).status_code == 200
    answer = client.post("/predict", json={"images": ["A" * 1000]})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "multipart/form-data or in binary" in answer.json()["detail"]
    assert infer(client, b" " * 1001).status_code == 413
    # Of a body with binary tensors, only the JSON counts.
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(golden[0]) + 4},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + len(golden[0]).to_bytes(4, "little") + golden[0]
    assert len(body) > 1000
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert client.post("/v2/models/discs/infer", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("length", ["9" * 5000, "²", "+5", ""])
def test_a_length_that_is_no_number_is_the_callers_fault(client: Any, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    assert client.post("/v2/models/discs/infer", content=b"{}", headers=headers).status_code == 400


@pytest.mark.parametrize(
    "text", [b"[" * 900, b'{"images":' * 200, b"1" * 20_000, b'{"images":[' + b"9" * 20_000 + b"]}"]
)
def test_deep_nesting_and_long_numbers_are_refused(client: Any, text: bytes) -> None:
    for answer in (client.post("/predict", content=text, headers=JSON), infer(client, text)):
        assert answer.status_code == 400


def test_the_last_of_two_equal_names_counts(client: Any) -> None:
    answer = client.post("/predict", content=b'{"images":["x"],"images":[1]}', headers=JSON)
    assert "images.0: Input should be a valid string" in answer.json()["detail"]


def test_text_of_breaks_and_escapes_takes_no_time() -> None:
    for text in ("A\n" * 200_000, "A \n" * 200_000, "data:;base64," + "%41" * 200_000, "A\r" * SHORT_LINES * 2):
        began = time.monotonic()
        assert not isinstance(decoded(text), bytes)
        assert time.monotonic() - began < 1
