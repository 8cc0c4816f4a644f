"""What a caller's bytes may be made of, before and while they are parsed."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from oodguard.core.answers import ModelRef
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.server import open_inference as oip
from oodguard.server.errors import RequestError
from oodguard.server.rpc.messages import MOST_FIELDS, encode, parse, read
from oodguard.server.rpc.wire import Layout, require_few_fields

SERVED = ModelRef(name="discs", version="7")
MOST_IMAGES = 4


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


def message(**change: Any) -> bytes:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": [b"one", b"two"]}}
    asked = {
        "model_name": "discs",
        "id": "a",
        "inputs": [tensor],
        "outputs": [{"name": "label"}],
        "parameters": {"accept": {"double_param": 0.9}},
    }
    return bytes(pb.ModelInferRequest(**(asked | change)).SerializeToString())


def parsed(body: bytes, manifest: Manifest) -> tuple[oip.InferRequest, list[Any]]:
    return parse(body, served=SERVED, manifest=manifest, most_images=MOST_IMAGES)


def test_a_message_becomes_what_the_http_routes_use(manifest: Manifest) -> None:
    asked, images = parsed(message(), manifest)
    assert (asked.id, asked.parameters, images) == ("a", {"accept": 0.9}, [b"one", b"two"])
    assert [output.name for output in asked.outputs or ()] == ["label"]
    kinds = {"b": {"bool_param": True}, "i": {"int64_param": -3}, "s": {"string_param": "0.5"}, "n": {}}
    asked, _ = parsed(message(parameters=kinds), manifest)
    assert asked.parameters == {"b": True, "i": -3, "s": "0.5", "n": None}


def test_arrays_become_an_answer(manifest: Manifest) -> None:
    asked, _ = parsed(message(outputs=[{"name": "scores"}, {"name": "label"}, {"name": "is_ood"}]), manifest)
    arrays = {
        "label": oip.texts(["a", "blue"]),
        "is_ood": np.array([True, False]),
        "scores": np.array([[1, 2], [3, np.nan]], dtype=np.float32),
    }
    answer = pb.ModelInferResponse.FromString(encode(asked, SERVED, arrays))
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("scores", "FP32", [2, 2]), ("label", "BYTES", [2]), ("is_ood", "BOOL", [2]),
    ]  # fmt: skip
    assert answer.raw_output_contents[0] == arrays["scores"].tobytes()
    assert answer.raw_output_contents[1] == b"\1\0\0\0a\4\0\0\0blue"
    assert answer.raw_output_contents[2] == b"\1\0"


def test_whatever_comes_is_parsed_or_refused(manifest: Manifest) -> None:
    rng = random.Random(0)
    bodies = [message(), message(raw_input_contents=[b"\3\0\0\0one"]), message(inputs=[{"name": "pixels"}])]
    outcomes = set()
    for _ in range(6000):
        body = bytearray(rng.choice(bodies))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(body) + 1)
            match rng.randrange(3):
                case 0:
                    body[place : place + 1] = bytes([rng.randrange(256)])
                case 1:
                    del body[place : place + rng.randint(1, 8)]
                case _:
                    body[place:place] = rng.randbytes(rng.randint(1, 8))
        try:
            _, images = parsed(bytes(body), manifest)
        except RequestError as error:
            outcomes.add(error.code)
        else:
            assert all(isinstance(one, bytes | np.ndarray | ImageError) for one in images)
            outcomes.add(None)
    assert outcomes == {None, Code.BAD_BODY, Code.NOT_FOUND}


@pytest.mark.parametrize("unit", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00", b"\x2a\x02\x18\x01"])
def test_a_message_of_many_fields_is_refused_before_it_takes_memory(unit: bytes, manifest: Manifest) -> None:
    body = unit * (8_000_000 // len(unit))
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="more than"):
            parsed(body, manifest)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_fields_are_counted_wherever_they_are() -> None:
    layout = Layout({5: Layout({5: Layout(only=frozenset({8}))})})
    nested = b"\x2a\x0a\x2a\x08" + b"\x42\x02ab" * 2
    require_few_fields(nested, layout, most=4)
    with pytest.raises(RequestError, match="more than 3 fields"):
        require_few_fields(nested, layout, most=3)
    # What is no message there counts as one field, whatever is in it.
    require_few_fields(nested, Layout(), most=1)
    with pytest.raises(RequestError, match="typed contents"):
        require_few_fields(b"\x2a\x04\x2a\x02\x08\x01", layout, most=9)


@pytest.mark.parametrize(
    "body",
    [b"\x08", b"\x08" + b"\xff" * 10 + b"\x01", b"\x09\x00", b"\x0d\x00", b"\x0a\x05ab", b"\x0c", b"\x2a\x03\x2a\x05a"],
)
def test_what_is_cut_off_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="wire format"):
        require_few_fields(body, Layout({5: Layout({5: Layout()})}), most=100)


def test_more_numbers_than_pixels_may_be_sent_are_not_unpacked(manifest: Manifest) -> None:
    side = manifest.preprocessing.crop
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [MOST_IMAGES + 1, side, side, 3]}
    numbers = [7] * ((MOST_IMAGES + 1) * side * side * 3)
    with pytest.raises(RequestError) as caught:
        parsed(message(inputs=[{**tensor, "contents": {"uint_contents": numbers}}], outputs=[]), manifest)
    assert caught.value.code is Code.TOO_MANY_FILES
    tensor["shape"] = [1, side, side, 3]
    with pytest.raises(RequestError, match=r"not in 0\.\.255"):
        parsed(message(inputs=[{**tensor, "contents": {"uint_contents": [256] * (side * side * 3)}}]), manifest)
    assert MOST_FIELDS > MOST_IMAGES


def test_another_kind_of_message_is_named() -> None:
    assert read(pb.ModelReadyRequest, b"\x0a\x05discs").name == "discs"
    with pytest.raises(RequestError, match="not a ModelReadyRequest"):
        read(pb.ModelReadyRequest, b"\x0a\x7f")
