"""The Open Inference Protocol, in process and through NVIDIA's own client."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels

INFER = "/v2/models/discs/infer"


def body(images: list[bytes], **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}], **more}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {tensor["name"]: tensor for tensor in answer.json()["outputs"]}


def test_metadata_and_health(client: Any) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/discs", "/v2/models/discs/versions/7"):
        document = client.get(path).json()
        assert (document["name"], document["versions"]) == ("discs", ["7"])
        assert {t["name"] for t in document["inputs"]} == {"image", "pixels"}
        assert client.get(f"{path}/ready").json()["ready"] is True
    for path in ("/v2/models/cats", "/v2/models/discs/versions/8", "/v2/models/cats/ready"):
        assert client.get(path).status_code == 404
    assert client.post("/v2/models/cats/infer", json=body([b"x"])).status_code == 404


def test_the_answer_is_that_of_predict(client: Any, golden: list[bytes]) -> None:
    found = outputs(client.post(INFER, json=body(golden, id="a7", parameters={"accept": 0.5})))
    files = [("image", ("x", image)) for image in golden]
    expected = client.post("/predict?accept=0.5", files=files).json()["predictions"]
    assert found["label"]["data"] == [p["label"] for p in expected]
    assert found["is_ood"]["data"] == [p["is_ood"] for p in expected]
    assert found["decision"]["data"] == [p["decision"] for p in expected]
    classes = ("amber", "jade", "plum")
    assert found["label_set"]["shape"] == [len(golden), 3]
    assert found["label_set"]["data"] == [name in p["labels"] for p in expected for name in classes]
    np.testing.assert_allclose(found["ood_score"]["data"], [p["ood_score"] for p in expected], rtol=1e-3, atol=1e-4)
    assert found["scores"]["shape"] == [len(golden), 8]
    answer = client.post(INFER, json=body(golden[:1], id="a7")).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a7", "discs", "7")


# As KServe 0.21 and MLServer 1.7 write a request: members of their own, null for what is not given, nested data.
DIALECTS: dict[str, dict[str, Any]] = {
    "kserve": {"id": "697af3cb", "model_name": "discs"},
    "nulls": {"id": None, "parameters": None, "outputs": None, "model_version": None},
    "unknown": {"parameters": {"content_type": "base64", "headers": {"a": [1]}}, "raw_output_contents": []},
}


@pytest.mark.parametrize("members", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("nested", [False, True])
def test_what_other_servers_clients_write_is_understood(
    client: Any, golden: list[bytes], members: dict[str, Any], nested: bool
) -> None:
    expected = outputs(client.post(INFER, json=body(golden[:2])))
    message = body(golden[:2]) | members
    tensor = message["inputs"][0]
    tensor |= {"parameters": None, "platform": "x"}
    if nested:
        tensor |= {"shape": [2, 1], "data": [[text] for text in tensor["data"]]}
    found = outputs(client.post(INFER, json=message))
    assert found["label"]["data"] == expected["label"]["data"]
    assert found["ood_score"]["data"] == pytest.approx(expected["ood_score"]["data"], rel=1e-4)


def test_an_element_that_is_no_text_is_that_images_error(client: Any, golden: list[bytes]) -> None:
    message = body(golden[:2], outputs=[{"name": "label"}, {"name": "error"}])
    message["inputs"][0]["data"][0] = 7
    found = outputs(client.post(INFER, json=message))
    assert found["error"]["data"] == ["bad_base64: JSON data of a BYTES image is base64 text", ""]


def test_a_byte_order_mark_is_not_part_of_the_json(client: Any, golden: list[bytes]) -> None:
    assert client.post(INFER, content=b"\xef\xbb\xbf" + json.dumps(body(golden[:1])).encode()).status_code == 200


def test_binary_tensors_both_ways(client: Any, golden: list[bytes], bundle: Path) -> None:
    pixels = load_pixels(golden[0], load_manifest(bundle).preprocessing)[None]
    message = {
        "inputs": [{"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8",
                    "parameters": {"binary_data_size": pixels.nbytes}}],
        "outputs": [{"name": "ood_score", "parameters": {"binary_data": True}}, {"name": "label"}],
    }  # fmt: skip
    head = json.dumps(message).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post(INFER, content=head + pixels.tobytes(), headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    (score,) = struct.unpack("<f", answer.content[length:])
    document = json.loads(answer.content[:length])
    encoded = outputs(client.post(INFER, json=body(golden[:1])))
    assert score == pytest.approx(encoded["ood_score"]["data"][0], rel=1e-4, abs=1e-5)
    assert document["outputs"][1]["data"] == encoded["label"]["data"]


def test_a_bad_image_is_named_or_answered_as_an_error_row(client: Any, golden: list[bytes]) -> None:
    answer = client.post(INFER, json=body([golden[0], b"junk", golden[1]]))
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("unsupported_type: image 1:")
    asked = [{"name": name} for name in ("label", "ood_score", "error")]
    found = outputs(client.post(INFER, json=body([golden[0], b"junk", golden[1]], outputs=asked)))
    alone = outputs(client.post(INFER, json=body([golden[0]])))
    assert found["label"]["data"][0] == alone["label"]["data"][0]
    assert found["ood_score"]["data"][1] is None
    assert [bool(text) for text in found["error"]["data"]] == [False, True, False]


@pytest.mark.parametrize("outputs", [None, [{"name": "label"}, {"name": "error"}]])
def test_every_refused_image_is_counted_and_the_others_only_where_they_are_answered(
    client: Any, golden: list[bytes], outputs: list[dict[str, str]] | None
) -> None:
    def counted() -> tuple[float, float, float]:
        report = client.get("/traffic").json()
        codes = ("unsupported_type", "empty")
        return (*(client.sample(f'oodguard_rejected_total{{code="{code}"}}') for code in codes), report["images"])

    mixed = body([b"junk", golden[0], b"", golden[1]], outputs=outputs)
    assert client.post(INFER, json=mixed).status_code == (200 if outputs else 415)
    assert counted() == (1.0, 1.0, 2 if outputs else 0)
    hopeless = body([b"junk", b""], outputs=outputs)
    answer = client.post(INFER, json=hopeless)
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("unsupported_type: image 0:")
    assert counted() == (2.0, 2.0, 2 if outputs else 0)
    assert client.get("/traffic").json()["refused"] == 4


def test_flagged_images_are_kept_whichever_route_they_came_by(start: Any, strangers: Path, tmp_path: Path) -> None:
    client = start(sample_dir=tmp_path, sample_rate=1.0)
    stranger = next(strangers.rglob("*.png")).read_bytes()
    assert outputs(client.post(INFER, json=body([stranger])))["is_ood"]["data"] == [True]
    client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="kept"}') == 1.0


def test_a_tensor_without_images_is_refused_as_such(client: Any) -> None:
    tensor = {"name": "image", "shape": [0], "datatype": "BYTES", "data": []}
    answer = client.post(INFER, json={"inputs": [tensor]})
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, "no_images")


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}]}, "exactly one"),
        ({"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["AA=="]}]}, "names 2"),
        ({"inputs": [{"name": "image", "shape": [-1], "datatype": "BYTES", "data": []}]}, "shape"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1]}]}, "datatype"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, "binary_data_size"),
        ({"inputs": [{"name": "pixels", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [1] * 12}]}, "shape is"),
        ({"parameters": {"binary_data_output": "false"}}, "binary_data_output is true or false"),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "binary_data is true or false"),
        ({"parameters": [1]}, "parameters"),
        ({"outputs": [{"name": "nope"}]}, "does not exist"),
        ({"outputs": [{"name": "label"}, {"name": "label"}]}, "repeats"),
        ({"parameters": {"accept": "much"}}, "accept"),
        ({"parameters": {"accept": 2}}, "accept"),
    ],
)
def test_malformed_requests(client: Any, golden: list[bytes], message: dict[str, Any], word: str) -> None:
    if "inputs" not in message and message:
        message = body(golden[:1]) | message
    answer = client.post(INFER, json=message)
    assert answer.status_code in (400, 422), answer.text
    assert word in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"[]"])
def test_what_is_not_json(client: Any, content: bytes) -> None:
    assert client.post(INFER, content=content).status_code == 400
    for length in ("x", "99999999", "-1"):
        headers = {"Inference-Header-Content-Length": length}
        assert client.post(INFER, content=content, headers=headers).status_code == 400


@pytest.mark.parametrize("raw", [b"\x01", b"\xff\xff\xff\xff", b"\x05\x00\x00\x00abc", b"\x00\x00\x00\x00" * 2])
def test_binary_data_that_does_not_add_up(client: Any, raw: bytes) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = client.post(INFER, content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
    assert (answer.status_code, "error" in answer.json()) == (400, True)


TRITON = """
import sys, numpy as np, tritonclient.http as http
address, files = sys.argv[1], sys.argv[2:]
client = http.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("discs")
assert client.get_model_metadata("discs", "7")["name"] == "discs"
images = np.array([open(f, "rb").read() for f in files], dtype=object)
given = http.InferInput("image", [len(images)], "BYTES")
given.set_data_from_numpy(images, binary_data=True)
asked = [http.InferRequestedOutput(n, binary_data=b) for n, b in
         (("label", True), ("is_ood", True), ("scores", True), ("ood_score", False))]
found = client.infer("discs", [given], outputs=asked, request_id="r1")
everything = client.infer("discs", [given])
for coding in ("gzip", "deflate"):
    again = client.infer("discs", [given], request_compression_algorithm=coding, response_compression_algorithm=coding)
    np.testing.assert_array_equal(again.as_numpy("label"), everything.as_numpy("label"))
print([t.decode() for t in found.as_numpy("label")])
assert found.as_numpy("is_ood").dtype == bool and found.as_numpy("scores").shape == (len(images), 8)
np.testing.assert_allclose(everything.as_numpy("ood_score"), found.as_numpy("ood_score"), rtol=1e-3, atol=1e-4)
try:
    client.infer("nope", [given])
except http.InferenceServerException as error:
    assert "not_found" in str(error), error
else:
    raise SystemExit("no error")
"""


def test_tritonclient_works_unchanged(server: Any, bundle: Path) -> None:
    golden = load_manifest(bundle).golden
    files = [str(bundle / g.path) for g in golden]
    address = server().url.removeprefix("http://")
    found = subprocess.run([sys.executable, "-c", TRITON, address, *files], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str([g.label for g in golden])
