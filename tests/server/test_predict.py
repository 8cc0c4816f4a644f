"""`POST /predict` on the real graph."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from oodguard.core.answers import PredictResponse
from oodguard.core.manifest import load_manifest

PROBLEM = "application/problem+json"


def upload(client: TestClient, *images: bytes, query: str = "") -> Any:
    return client.post(f"/predict{query}", files=[("image", (f"{i}.jpg", b)) for i, b in enumerate(images)])


def stripped(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [{k: v for k, v in p.items() if k != "file"} for p in answer.json()["predictions"]]


def test_the_answer_is_the_manifests_verdict(client: TestClient, bundle: Path, golden: list[bytes]) -> None:
    answer = upload(client, *golden)
    parsed = PredictResponse.model_validate_json(answer.content)
    assert (parsed.model.name, parsed.model.version) == ("discs", "7")
    assert [p.index for p in parsed.predictions] == list(range(len(golden)))
    manifest = load_manifest(bundle)
    chances = manifest.calibration.chances([golden.probabilities for golden in manifest.golden]).max(1)
    for prediction, expected, chance in zip(parsed.predictions, manifest.golden, chances, strict=True):
        assert (prediction.label, prediction.is_ood) == (expected.label, expected.is_ood)
        assert prediction.probability == pytest.approx(chance, abs=1e-4)
        assert list(prediction.scores) == [
            "pds", "amp", "energy", "ensemble_entropy", "one_minus_bma", "ice", "knn", "mahalanobis",
        ]  # fmt: skip
        assert prediction.is_ood is (prediction.ood_score > prediction.threshold)
    assert set(answer.json()["timing_ms"]) == {"read", "decode", "queue", "inference", "judge", "total"}


def test_three_body_types_give_the_same_answer(client: TestClient, golden: list[bytes]) -> None:
    image = golden[0]
    text = base64.b64encode(image).decode()
    answers = [
        upload(client, image),
        client.post("/predict", content=image, headers={"content-type": "image/jpeg"}),
        client.post("/predict", content=image, headers={"content-type": "application/octet-stream"}),
        client.post("/predict", json={"images": [text]}),
        client.post("/predict", json={"images": [f"data:image/jpeg;base64,{text}"]}),
    ]
    first = stripped(answers[0])
    assert len(first) == 1
    for answer in answers[1:]:
        assert stripped(answer) == first


def test_strangers_are_flagged_and_photos_mostly_not(client: TestClient, strangers: Path, photos: Path) -> None:
    noise = [p.read_bytes() for p in sorted(strangers.rglob("*.png"))]
    assert all(p["is_ood"] for p in stripped(upload(client, *noise)))
    known = [p.read_bytes() for p in sorted((photos / "test").rglob("*.jpg"))]
    flagged = [p["is_ood"] for p in stripped(upload(client, *known))]
    assert sum(flagged) <= len(flagged) // 3


def test_one_bad_image_costs_the_others_nothing(client: TestClient, golden: list[bytes]) -> None:
    alone = [stripped(upload(client, image))[0] for image in golden[:2]]
    answer = upload(client, golden[0], b"junk", golden[1], golden[0][:200])
    body = answer.json()
    assert answer.status_code == 200
    assert [p["index"] for p in body["predictions"]] == [0, 2]
    for expected, found in zip(alone, body["predictions"], strict=True):
        assert found["label"] == expected["label"]
        assert found["ood_score"] == pytest.approx(expected["ood_score"], rel=1e-3, abs=1e-4)
    assert [(e["index"], e["file"], e["status"], e["code"]) for e in body["errors"]] == [
        (1, "1.jpg", 415, "unsupported_type"),
        (3, "3.jpg", 422, "cannot_decode"),
    ]


def test_when_all_fail_the_status_says_so(client: TestClient) -> None:
    one = upload(client, b"junk")
    assert (one.status_code, one.headers["content-type"]) == (415, PROBLEM)
    assert (one.json()["code"], one.json()["file"]) == ("unsupported_type", "0.jpg")
    two = upload(client, b"junk", b"")
    assert two.status_code == 422
    assert [e["code"] for e in two.json()["errors"]] == ["unsupported_type", "empty"]


def test_accept_moves_the_threshold_of_this_request_only(client: TestClient, golden: list[bytes]) -> None:
    usual = stripped(upload(client, golden[0]))[0]
    strict = upload(client, golden[0], query="?accept=0.5")
    assert strict.json()["accept"] == 0.5
    moved = stripped(strict)[0]
    assert moved["threshold"] < usual["threshold"]
    assert moved["ood_score"] == pytest.approx(usual["ood_score"])
    assert stripped(upload(client, golden[0]))[0]["threshold"] == usual["threshold"]


def test_top_k(client: TestClient, golden: list[bytes]) -> None:
    assert len(stripped(upload(client, golden[0], query="?top_k=2"))[0]["top_k"]) == 2
    assert len(stripped(upload(client, golden[0], query="?top_k=99"))[0]["top_k"]) == 3


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?accept=0", "accept"),
        ("?accept=1.5", "accept"),
        ("?accept=0.99999", "at most"),
        ("?accept=nan", "accept"),
        ("?accept=lots", "accept"),
        ("?accept=0.9&accept=0.8", "accept"),
        ("?coverage=0.999999&confidence=1", "confidence"),
        ("?confidence=0.9999999", "independent calibration images cannot promise"),
        ("?coverage=2", "coverage"),
        ("?max_error=0", "max_error"),
        ("?top_k=0", "top_k"),
        ("?top_k=1.5", "top_k"),
        ("?acept=0.9", "acept"),
    ],
)
def test_bad_parameters_are_422(client: TestClient, golden: list[bytes], query: str, word: str) -> None:
    answer = upload(client, golden[0], query=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "no_images"),
        (b"", "application/json", 400, "bad_body"),
        (b"{", "application/json", 400, "bad_body"),
        (b"[1]", "application/json", 400, "bad_body"),
        (b'{"images": []}', "application/json", 400, "bad_body"),
        (b'{"images": [7]}', "application/json", 400, "bad_body"),
        (b'{"images": ["AA=="], "x": 1}', "application/json", 400, "bad_body"),
        (b'{"images": ["***"]}', "application/json", 422, "bad_base64"),
        (b'{"images": ["data:image/png,raw"]}', "application/json", 422, "bad_base64"),
        (b"[" * 100_000, "application/json", 400, "bad_body"),
        (b"hello", "text/plain", 415, "unsupported_body"),
        (b"hello", "", 415, "unsupported_type"),
        (b"hello", "multipart/form-data", 400, "bad_body"),
        (b"hello", "multipart/form-data; boundary=x", 400, None),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, None),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
         "multipart/form-data; boundary=x", 400, "no_images"),
    ],
)  # fmt: skip
def test_malformed_bodies(client: TestClient, body: bytes, kind: str, status: int, code: str | None) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert code is None or answer.json()["code"] == code


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "identity, br"])
@pytest.mark.parametrize(
    ("route", "kind"),
    [
        ("/predict", "image/jpeg"),
        ("/predict", "application/json"),
        ("/predict", "multipart/form-data; boundary=x"),
        ("/v2/models/discs/infer", "application/json"),
    ],
)
def test_a_coding_that_is_not_supported_is_refused_on_every_route(
    client: TestClient, route: str, kind: str, encoding: str
) -> None:
    body = gzip.compress(b'{"images": ["AA=="]}')
    answer = client.post(route, content=body, headers={"content-type": kind, "content-encoding": encoding})
    assert answer.status_code == 415
    assert "unsupported_body" in answer.text
    assert f"content encoding {encoding!r} is not supported" in answer.text
    assert answer.headers["accept-encoding"].startswith("gzip, deflate")


def test_a_body_may_say_that_it_is_not_compressed(client: TestClient, golden: list[bytes]) -> None:
    headers = {"content-type": "image/jpeg", "content-encoding": "identity"}
    assert client.post("/predict", content=golden[0], headers=headers).status_code == 200


def test_limits(start: Any, golden: list[bytes], picture: Any) -> None:
    client = start(max_body_bytes=20_000, max_image_bytes=8_000, max_pixels=10_000, max_files=3)
    assert upload(client, picture(size=(200, 200))).json()["code"] == "too_many_pixels"
    assert upload(client, b"\xff\xd8" + bytes(9_000)).json()["code"] == "too_many_bytes"
    many = upload(client, *[picture()] * 4)
    assert (many.status_code, many.json()["code"]) == (413, "too_many_files")
    listed = client.post("/predict", json={"images": [base64.b64encode(picture()).decode()] * 4})
    assert (listed.status_code, listed.json()["code"]) == (413, "too_many_files")
    big = client.post("/predict", content=bytes(30_000), headers={"content-type": "image/png"})
    assert (big.status_code, big.json()["code"]) == (413, "body_too_large")
    assert upload(client, golden[0][:0], picture()).status_code == 200


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=x"])
def test_a_body_without_a_length_is_cut_off_while_it_streams(start: Any, kind: str) -> None:
    client = start(max_body_bytes=20_000)
    sent = 0

    def endless() -> Any:
        nonlocal sent
        if kind.startswith("multipart"):
            yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
        for _ in range(40):
            sent += 1000
            yield bytes(1000)

    answer = client.post("/predict", content=endless(), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_odd_file_names_and_field_names(client: TestClient, picture: Any) -> None:
    files = [("a", ('日本 "x".png', picture())), ("a", ("../../etc/passwd", picture())), ("", ("b", picture()))]
    answer = client.post("/predict", files=files)
    assert [p["index"] for p in answer.json()["predictions"]] == [0, 1, 2]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
@pytest.mark.parametrize("size", [(40, 40), (1, 1)])
def test_every_png_mode_works(client: TestClient, mode: str, size: tuple[int, int], picture: Any) -> None:
    colour = 1 if mode in ("1", "P", "L", "I;16") else "white"
    assert upload(client, picture(colour, size, mode)).status_code == 200


def test_unknown_routes_and_methods_are_problems(client: TestClient) -> None:
    for answer, status, code in (
        (client.get("/nope"), 404, "not_found"),
        (client.get("/predict"), 405, "method_not_allowed"),
        (client.delete("/health/live"), 405, "method_not_allowed"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
        assert answer.json()["code"] == code


def test_the_openapi_document_names_bodies_answers_and_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data", "image/*", "application/octet-stream", "application/json",
    }  # fmt: skip
    assert {"200", "400", "401", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
    assert json.dumps(document).count('"$ref"') > 3
    assert "http" not in client.get("/docs").text.split("<body>")[0]
