"""What the page is made of: its files, the model card, the samples, and who may see them."""

from __future__ import annotations

import gc
import re
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from oodguard.core.binomial import promised_acceptance
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import InputError
from oodguard.core.manifest import load_manifest
from oodguard.core.provenance import Recalibration
from oodguard.core.targets import Targets
from oodguard.server.card import ModelCard, _acceptance, checks_of, scale_of
from oodguard.server.keys import digest, new_key
from oodguard.server.page import STATIC
from oodguard.training.run import load_run

FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.fixture
def card(client: TestClient) -> ModelCard:
    return ModelCard.model_validate_json(client.get("/model").content)


def test_the_page_is_small_and_whole() -> None:
    page = [path for path in STATIC.iterdir() if path.name.startswith("page")]
    assert sum(path.stat().st_size for path in page) < 60_000
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]", text), path


def test_nothing_is_inline_and_the_policy_forbids_it(client: TestClient) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", answer.text)
        for found in re.findall(r'(?:src|href)="(static/[^"]+)"', answer.text):
            assert client.get(f"/{found}").status_code == 200
    assert 'href="docs"' in client.get("/").text


@pytest.mark.parametrize("path", ["/", "/docs", "/static/page.css", "/static/page-judge.js", "/static/docs.js"])
def test_a_browser_keeps_the_files(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    again = client.get(path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    assert client.head(path).headers["content-length"] == str(len(first.content))
    assert client.get("/health/live").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/static/", "/static/page.html", "/static/absent.js", "/static/..%2fapp.py"])
def test_only_the_pages_own_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_cards_thresholds_are_those_of_predict(client: TestClient, card: ModelCard, golden: list[bytes]) -> None:
    assert card.targets == Targets()
    for index in (0, 17, card.accepts.index(0.9), card.accepts.index(0.95), len(card.accepts) - 1):
        answer = client.post(f"/predict?accept={card.accepts[index]}", files=[("image", g) for g in golden]).json()
        assert answer["accept"] == card.accepts[index]
        for found in answer["predictions"]:
            assert found["threshold"] == card.fused.thresholds[index]
            assert found["is_ood"] is (found["ood_score"] > card.fused.thresholds[index])
            for detector in card.detectors:
                score = found["scores"][detector.name]
                assert score["threshold"] == detector.thresholds[index]
                assert score["is_ood"] is (score["value"] > detector.thresholds[index])


def test_the_card_offers_only_what_the_calibration_can_promise(
    client: TestClient, card: ModelCard, golden: list[bytes]
) -> None:
    assert list(card.accepts) == sorted(set(card.accepts))
    assert card.accepts[-1] <= card.max_accept < card.accepts[-1] + 0.005
    above = card.max_accept + 1e-6
    refused = client.post(f"/predict?accept={above}", content=golden[0], headers={"content-type": "image/jpeg"})
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_parameter")


def test_a_servers_own_acceptance_is_on_the_card(start: Any) -> None:
    card = start(accept=0.4321).get("/model").json()
    assert card["targets"]["accept"] == card["accepts"][0] == 0.4321


def test_the_card_says_what_is_served(card: ModelCard, bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert card.classes == manifest.classes
    assert card.parity == manifest.parity
    assert card.metrics == manifest.provenance.metrics
    fusion = manifest.calibration.fusion
    assert [d.weight for d in card.detectors] == [fusion.weight(name) for name in manifest.score_names]
    assert sum(d.weight for d in card.detectors) == pytest.approx(1.0)
    assert card.data.calibration_images == manifest.provenance.calibration_images
    assert [check.name for check in card.checks] == [
        "Export parity (fp32)",
        "Promised acceptance",
        "Learner collusion",
    ]
    assert card.checks[0].passed
    assert (card.limits.image_bytes, card.runtime.engine) == (20 * 1024 * 1024, "onnxruntime")
    assert str(bundle) not in card.model_dump_json()


def test_the_promise_is_checked_against_the_interval_of_the_report(bundle: Path, run: Path) -> None:
    manifest, record = load_manifest(bundle), load_run(run).record
    tested = manifest.provenance.test_images
    assert tested == record.splits.test > 0
    # What `evaluate` reports for the run.
    low, high = promised_acceptance(0.95, record.calibration.independent, tested=tested)
    for share, kept in ((low, True), (low - 1e-6, False), (high, True), (high + 1e-6, False)):
        check = _acceptance(share, manifest)
        assert check.passed is kept
        assert f"{100 * low:.1f} % to {100 * high:.1f} % was to be expected of {tested} test images" in check.detail


def test_a_promise_that_new_photos_have_set_anew_is_not_checked_on_old_ones(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    anew = Recalibration(created="now", oodguard="1", images=9, labelled=False, from_version="1", from_sha256="0" * 64)
    names = lambda found: [check.name for check in checks_of(found)]  # noqa: E731
    assert "Promised acceptance" not in names(manifest.model_copy(update={"recalibrations": (anew,)}))
    of_source = anew.model_copy(update={"source": "tills"})
    assert "Promised acceptance" in names(manifest.model_copy(update={"recalibrations": (of_source,)}))


def test_a_scale_is_the_curves_surprise() -> None:
    curve = QuantileCurve.fit([float(n * n) for n in range(400)])
    scale = scale_of(curve)
    assert list(scale.values) == sorted(set(scale.values))
    assert list(scale.surprises) == sorted(scale.surprises)
    for knot, nats in zip(scale.values, scale.surprises, strict=True):
        assert nats == pytest.approx(float(curve.surprise(knot)))
    # Beyond the last knot the last line goes on.
    (x1, x2), (y1, y2) = scale.values[-2:], scale.surprises[-2:]
    assert y2 + (y2 - y1) / (x2 - x1) * 1000 == pytest.approx(float(curve.surprise(x2 + 1000)))


def test_a_replaced_model_has_a_new_card_and_is_let_go(start: Any, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    client = start(folder=folder)
    assert client.get("/model").json()["model"]["version"] == "7"
    old = weakref.ref(client.parts.serving.model)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "7"', '"version": "8"'))
    # The private application runs in a loop of its own here.
    assert client.portal.call(client.parts.serving.reload).manifest.version == "8"
    deadline = time.monotonic() + 10
    while old() is not None and time.monotonic() < deadline:
        client.get("/health/live")
        gc.collect()
    assert old() is None
    assert client.get("/model").json()["model"]["version"] == client.get("/traffic").json()["model"]["version"] == "8"


def test_samples_are_the_golden_images(client: TestClient, card: ModelCard, golden: list[bytes]) -> None:
    assert [sample.number for sample in card.samples] == list(range(len(golden)))
    for number, image in enumerate(golden):
        answer = client.get(f"/samples/{number}")
        kind = "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
        assert (answer.content, answer.headers["content-type"]) == (image, kind)
    for path in (len(golden), "-1", "x", "..%2fmanifest.json", "1" * 5000, "\u0661"):
        refused = client.get(f"/samples/{path}")
        assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")


def test_samples_may_be_ones_own(start: Any, tmp_path: Path, picture: Any) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(picture())
    client = start(samples=(path,))
    assert client.get("/model").json()["samples"] == [{"number": 0, "title": "mine"}]
    assert client.get("/samples/0").headers["content-type"] == "image/png"
    # What takes the place of the file later is nobody's business.
    secret = tmp_path / "secret"
    secret.write_text("not for callers")
    path.unlink()
    path.symlink_to(secret)
    assert client.get("/samples/0").content == picture()


def test_a_golden_image_that_was_replaced_is_not_handed_out(start: Any, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    client = start(folder=folder)
    first = load_manifest(folder).golden[0].path
    (tmp_path / "secret").write_text("not for callers")
    (folder / first).unlink()
    (folder / first).symlink_to(tmp_path / "secret")
    assert client.get("/samples/0").status_code == 404
    assert client.get("/samples/1").status_code == 200


@pytest.mark.parametrize("content", [b"text", None, b"\x89PNG\r\n\x1a\n" + bytes(2**20)])
def test_a_sample_that_is_no_image_stops_the_start(start: Any, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mine.png").write_bytes(content)
    with pytest.raises(InputError, match=r"sample .*mine\.png"):
        start(samples=(tmp_path / "mine.png",), max_image_bytes=2**20)


def test_with_keys_the_shell_is_open_and_all_it_shows_is_not(start: Any, picture: Any) -> None:
    key = new_key()
    client = start(key_hashes=f"alice:{digest(key)}")
    for path in ("/", "/docs", "/static/page.js", "/static/docs.css"):
        assert client.get(path).status_code == 200
        assert "discs" not in client.get(path).text
    for path in ("/model", "/traffic", "/samples/0", "/openapi.json"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"x-api-key": key}).status_code == 200


def test_the_page_can_be_switched_off(start: Any) -> None:
    client = start(page=False)
    found = client.get("/", follow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (307, "docs")
    for path in ("/model", "/traffic", "/samples/0", "/static/page.js"):
        assert client.get(path).status_code == 404
    assert client.get("/docs").status_code == client.get("/static/docs.js").status_code == 200
    assert not {"/model", "/traffic"} & set(client.get("/openapi.json").json()["paths"])


def test_the_openapi_document_has_the_pages_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, name in (("/model", "ModelCard"), ("/traffic", "TrafficReport")):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    assert "image/*" in document["paths"]["/samples/{number}"]["get"]["responses"]["200"]["content"]
    assert not any("static" in path for path in document["paths"])


def test_requests_are_counted_by_family(client: Any) -> None:
    client.get("/samples/0")
    client.get("/samples/1")
    client.get("/static/page.js")
    assert client.sample('oodguard_requests_total{route="/samples/*",status="200"}') == 2.0
    assert client.sample('oodguard_requests_total{route="/static/*",status="200"}') == 1.0
