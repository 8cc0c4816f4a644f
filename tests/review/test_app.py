from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from oodguard.review.app import MAX_BODY, create_app
from oodguard.review.marks import read_marks
from oodguard.review.tool import open_session
from tests.review.folders import put, put_all

PORT, TOKEN, TICKET = 8123, "secret-path", "once-path"
HERE = f"http://127.0.0.1:{PORT}"
JSON = {"content-type": "application/json"}


@pytest.fixture
def flagged(tmp_path: Path) -> Path:
    return put_all(tmp_path / "flagged", {"a.jpg": 9, "b.jpg": 10, "c.jpg": 11})


@pytest.fixture
def client(flagged: Path) -> Iterator[TestClient]:
    """A browser's view of the application, with look-alikes found."""
    with open_session(flagged, flagged / "marks.csv") as (session, alike):
        alike.start()
        alike.wait(60)
        yield TestClient(create_app(session, token=TOKEN, ticket=TICKET, port=PORT), base_url=HERE)


def numbers(client: TestClient) -> dict[str, int]:
    return {one["file"]: n for n, one in enumerate(client.get(f"/{TOKEN}/overview").json()["pictures"])}


def post(client: TestClient, path: str, body: object, **headers: str) -> Any:
    return client.post(f"/{TOKEN}/{path}", json=body, headers=headers)


def test_a_mark_is_in_the_file_and_can_be_taken_back(client: TestClient, flagged: Path) -> None:
    at = numbers(client)
    body = {"pictures": [at["a.jpg"], at["c.jpg"]], "mark": "new class", "label": "lamp", "group": at["c.jpg"]}
    found = post(client, "mark", body).json()
    assert found["marks"] == {str(at[name]): {"kind": "new class", "label": "lamp"} for name in ("a.jpg", "c.jpg")}
    assert (found["new"], found["steps"]) == (["lamp"], 1)
    rows = read_marks(flagged / "marks.csv")
    assert {path: (row.mark.label, row.group) for path, row in rows.items()} == {
        "a.jpg": ("lamp", "c.jpg"),
        "c.jpg": ("lamp", "c.jpg"),
    }
    assert sorted(post(client, "undo", {}).json()["changed"]) == sorted((at["a.jpg"], at["c.jpg"]))
    assert read_marks(flagged / "marks.csv") == {}
    assert post(client, "undo", {}).json() == {"detail": "there is nothing to take back in this session"}


def test_marks_that_cannot_be_are_one_sentence(client: TestClient, flagged: Path) -> None:
    for body, sentence in (
        (
            {"pictures": [0], "mark": "known", "label": "melon"},
            "the model has no class melon; mark these as a new class",
        ),
        ({"pictures": [0], "mark": "new class", "label": "Plum"}, "there is a class plum already"),
        ({"pictures": [0], "mark": "new class", "label": "../x"}, "leave it out"),
        ({"pictures": [0], "mark": "odd"}, "'odd' is no mark"),
        ({"pictures": [3], "mark": "stranger"}, "there is no such picture"),
        ({"pictures": [-1], "mark": "stranger"}, "there is no such picture"),
        ({"pictures": [], "mark": "stranger"}, "the body cannot be read: pictures"),
        ({"pictures": [0], "mark": "stranger", "more": 1}, "the body cannot be read: more"),
        ("text", "the body cannot be read"),
    ):
        answer = post(client, "mark", body)
        assert (answer.status_code, sentence in answer.json()["detail"]) == (400, True), body
    assert not (flagged / "marks.csv").exists()
    # One spelling of a new class.
    post(client, "mark", {"pictures": [0], "mark": "new class", "label": "lamp"})
    assert post(client, "mark", {"pictures": [1], "mark": "new class", "label": "LAMP"}).json()["new"] == ["lamp"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": f"attacker.example:{PORT}"},
        {"host": "127.0.0.1:80"},
        {"host": "127.0.0.1"},
        {"origin": "http://attacker.example"},
        {"origin": "null"},
        {"origin": f"http://localhost:{PORT}"},
        {"origin": "http://127.0.0.1:8124"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_pages_of_other_origins_neither_read_nor_mark(
    client: TestClient, flagged: Path, headers: dict[str, str]
) -> None:
    for path in ("", "overview", "marks", "groups", "small/0", "static/review.js"):
        answer = client.get(f"/{TOKEN}/{path}", headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert b"a.jpg" not in answer.content
    assert post(client, "mark", {"pictures": [0], "mark": "stranger"}, **headers).status_code == 403
    assert not (flagged / "marks.csv").exists()


def test_forms_and_preflights_of_other_pages_are_refused(client: TestClient, flagged: Path) -> None:
    body = '{"pictures": [0], "mark": "stranger"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert client.post(f"/{TOKEN}/mark", content=body, headers={"content-type": kind}).status_code == 403
    asked = {"origin": HERE, "access-control-request-method": "POST"}
    assert client.options(f"/{TOKEN}/mark", headers=asked).status_code == 405
    assert client.get(f"/{TOKEN}/mark").status_code == 405
    assert not (flagged / "marks.csv").exists()
    # The page itself.
    assert client.post(f"/{TOKEN}/mark", content=body, headers={**JSON, "origin": HERE}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/overview", "/other/overview", "//overview", f"/{TOKEN}x/", "/%00/marks"])
def test_nothing_is_there_without_the_secret(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 403


def test_a_ticket_leads_to_the_page_once(client: TestClient) -> None:
    assert client.get(f"/{TICKET}/overview").status_code == 403
    first = client.get(f"/{TICKET}/", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, f"/{TOKEN}/")
    assert client.get(f"/{TICKET}/", follow_redirects=False).status_code == 403


def test_every_answer_has_a_strict_policy_and_only_copies_are_kept(client: TestClient) -> None:
    for path in ("", "overview", "static/review.css", "small/0", "absent"):
        headers = client.get(f"/{TOKEN}/{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert ("no-store" in headers["cache-control"]) == (path != "small/0")
    page = client.get(f"/{TOKEN}/").text
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert "https:" not in page


def test_copies_are_small_jpegs_without_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "where I live", 6
    stream = io.BytesIO()
    Image.new("RGB", (900, 600), "red").save(stream, "JPEG", exif=exif)
    put(tmp_path, "a.jpg", picture=stream.getvalue())
    put(tmp_path, "torn.jpg", picture=stream.getvalue()[:300], score=8.5)
    with open_session(tmp_path, tmp_path / "marks.csv") as (session, _):
        client = TestClient(create_app(session, token=TOKEN, port=PORT), base_url=HERE)
        for path, size in (("small/0", (149, 224)), ("large/0", (600, 900))):
            answer = client.get(f"/{TOKEN}/{path}")
            assert answer.headers["content-type"] == "image/jpeg"
            assert b"where I live" not in answer.content
            assert Image.open(io.BytesIO(answer.content)).size == size
        torn = client.get(f"/{TOKEN}/small/1")
        assert (torn.status_code, "cannot be decoded" in torn.json()["detail"]) == (422, True)
        for path in (
            "small/2",
            "small/99999999999999999999",
            "large/-1",
            "near/2",
            "photo/..%2F..%2Fetc",
            "static/..%2Fapp.py",
        ):
            assert client.get(f"/{TOKEN}/{path}").status_code == 404
        (tmp_path / "a.jpg").unlink()
        assert client.get(f"/{TOKEN}/large/0").status_code == 404


def test_large_bodies_are_not_read(client: TestClient) -> None:
    answer = client.post(f"/{TOKEN}/mark", content=b" " * (MAX_BODY + 1), headers=JSON)
    assert (answer.status_code, "a body may have" in answer.json()["detail"]) == (400, True)
    deep = client.post(f"/{TOKEN}/mark", content=b"[" * 200_000, headers=JSON)
    assert (deep.status_code, "it is not JSON" in deep.json()["detail"]) == (400, True)


def test_groups_are_sent_again_only_when_they_are_others(client: TestClient) -> None:
    found = client.get(f"/{TOKEN}/groups").json()
    assert (found["finished"], found["measured"], len(found["groups"])) == (True, 3, 3)
    assert client.get(f"/{TOKEN}/groups?have={found['version']}").json()["groups"] is None
    other = post(client, "regroup", {"level": "off"}).json()
    assert (other["groups"], other["level"]) == ([[0], [1], [2]], "off")
    assert post(client, "regroup", {"level": "odd"}).status_code == 400
