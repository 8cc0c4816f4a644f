"""The page in a real Chromium, against a real server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Request, expect

from oodguard.load_tests.process import wait_until
from oodguard.server.keys import digest, new_key
from tests.chromium import chromium
from tests.nearby import Nearby

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open the page at a server; whatever the page itself gets wrong fails the test."""
    contexts, wrong = [], []

    def begin(url: str, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: (
                wrong.append(said.text) if said.type == "error" and "Failed to load resource" not in said.text else None
            ),
        )
        page.goto(url)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(visit: Open, serving: Any) -> Page:
    """The page at the module's server, with its model card."""
    opened = visit(serving.url)
    expect(opened.locator("#work")).to_be_visible()
    return opened


@pytest.fixture
def known(photos: Path) -> list[Path]:
    return sorted((photos / "test").rglob("*.jpg"))


@pytest.fixture
def unknown(strangers: Path) -> list[Path]:
    return sorted(strangers.rglob("*.png"))


def give(page: Page, *paths: Path, seconds: float = 5.0) -> Locator:
    """Choose files and wait until all have an answer; the verdict."""
    page.set_input_files("#files", paths)
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#work")).to_have_attribute("aria-busy", "false", timeout=1000 * seconds)
    return page.locator("#verdict")


def ask(url: str, path: Path, **query: Any) -> Any:
    return httpx.post(f"{url}/predict", params=query, files=[("image", path.read_bytes())]).json()["predictions"][0]


def slide(page: Page, index: int) -> None:
    """Put the slider on a stop, as an arrow key would."""
    page.locator("#accept").evaluate(
        "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input', {bubbles: true})); }", index
    )


def predicted(request: Request) -> bool:
    return request.method == "POST" and "/predict" in request.url


def test_an_upload_shows_verdict_label_and_scores(
    page: Page, serving: Any, known: list[Path], unknown: list[Path]
) -> None:
    inside = next(path for path in known if not ask(serving.url, path)["is_ood"])
    answer = ask(serving.url, inside)
    title = "In distribution" if answer["decision"] == "answer" else "In distribution, but unsure"
    expect(give(page, inside)).to_have_text(title)
    expect(page.locator("#answer")).to_contain_text(answer["label"])
    bars = page.get_by_role("meter")
    expect(bars).to_have_count(9)
    expect(bars.first).to_have_attribute("aria-label", "Fused score")
    expect(bars.first).to_have_attribute("aria-valuenow", f"{answer['percentile']:.1f}")
    expect(give(page, unknown[0])).to_have_text("Out of distribution")
    expect(page.locator("#answer")).to_contain_text("do not trust the label")
    expect(bars.first).to_have_attribute("aria-valuetext", re.compile("over its threshold"))
    expect(page.locator("#spoken")).to_contain_text(f"{unknown[0].name}: Out of distribution")
    expect(page.locator("#tally")).to_have_text(
        f"2 images: 1 {'in' if title == 'In distribution' else 'unsure'}, 1 out"
    )
    assert page.evaluate("document.querySelectorAll('script:not([src]), style').length") == 0


def test_the_slider_judges_as_the_server_does_without_asking_it(
    page: Page, serving: Any, known: list[Path], unknown: list[Path]
) -> None:
    paths = [*known[::5], unknown[0]]
    give(page, *paths)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if predicted(request) else None)
    accepts = httpx.get(f"{serving.url}/model").json()["accepts"]
    seen = set()
    for index in (0, 10, 25, 40, len(accepts) - 1):
        slide(page, index)
        for button, path in zip(page.locator("#strip button").all(), paths, strict=True):
            truth = ask(serving.url, path, accept=accepts[index])
            kinds = {"answer": "in", "unsure": "unsure", "stranger": "out"}
            expect(button).to_have_attribute("data-kind", kinds[truth["decision"]])
            seen.add(truth["is_ood"])
            button.click()
            words = {"answer": "Answer: ", "unsure": "Unsure", "stranger": "Stranger: do not trust the label "}
            expect(page.locator("#answer")).to_have_text(re.compile(f"^{words[truth['decision']]}"))
            if truth["decision"] == "unsure" and len(truth["labels"]) > 1:
                expect(page.locator("#answer")).to_contain_text(
                    f"between {' and '.join(truth['labels']).replace(' and ', ', ', len(truth['labels']) - 2)}."
                )
            over = page.locator("#bars > .over").count()
            assert over == truth["is_ood"] + sum(score["is_ood"] for score in truth["scores"].values())
    assert (seen, asked) == ({True, False}, [])
    assert page.locator("#accept").get_attribute("max") == str(len(accepts) - 1)


def test_a_bad_file_says_what_is_wrong_with_it(page: Page, tmp_path: Path, known: list[Path]) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    expect(give(page, notes)).to_have_text("Unsupported image type")
    expect(page.locator("#because")).to_contain_text("JPEG, PNG")
    expect(page.locator("#again")).to_be_hidden()
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(known[0].read_bytes()[:300])
    expect(give(page, torn)).to_have_text("Image cannot be decoded")
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    expect(give(page, empty)).to_have_text("Empty file")
    expect(page.locator("#spoken")).to_contain_text("empty.png: Empty file")
    expect(page.locator("#tally")).to_have_text("3 images: 3 failed")


def test_samples_and_noise_can_be_tried(page: Page, serving: Any) -> None:
    page.get_by_role("button", name="Try noise").click()
    expect(page.locator("#verdict")).to_have_text("Out of distribution")
    title = httpx.get(f"{serving.url}/model").json()["samples"][0]["title"]
    page.get_by_role("button", name=f"Try {title}").click()
    expect(page.locator("#photo-name")).to_have_text(title)
    expect(page.locator("#verdict")).to_have_text(re.compile("distribution"))
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#result")).to_be_hidden()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(page: Page, event: str, known: list[Path]) -> None:
    page.evaluate(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(bytes)], 'given.jpg', {type: 'image/jpeg'}));
            const event = name === 'drop' ? new DragEvent(name, {dataTransfer: transfer, bubbles: true})
                : new ClipboardEvent(name, {clipboardData: transfer, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        [event, list(known[0].read_bytes())],
    )
    expect(page.locator("#photo-name")).to_have_text("given.jpg")
    expect(page.locator("#verdict")).to_have_text(re.compile("distribution"))


def test_everything_works_by_keyboard(page: Page) -> None:
    page.locator("body").press("Tab")
    expect(page.get_by_role("link", name="Skip to the images")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_label("Choose images")).to_be_focused()
    outline = "label => getComputedStyle(label.parentElement).outlineStyle"
    assert page.locator("#drop").evaluate(outline) == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_have_text(re.compile("distribution"))
    slider = page.get_by_role("slider", name="Target acceptance")
    slider.focus()
    before = slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    expect(slider).not_to_have_attribute("aria-valuetext", str(before))
    page.keyboard.press("Home")
    expect(slider).to_have_attribute(
        "aria-valuetext", re.compile(r"^50\s%, threshold [\d.]+: (in|out of) distribution")
    )
    expect(page.locator("#accept-value")).to_have_text("50 %")


def test_the_model_card_shows_the_shadow(visit: Open, server: Any, bundle: Path, newer: Path) -> None:
    running = server("--shadow", str(newer), "--shadow-share", "0.25")
    wait_until(lambda: running.sample("oodguard_shadow_ready"), 240)
    opened = visit(running.url)
    expect(opened.locator("#card")).to_contain_text(
        re.compile(r"Shadow\s*discs, version 8, on 25(\.0)?.% of the images")
    )


def test_traffic_and_model_card(page: Page, serving: Any, known: list[Path]) -> None:
    give(page, *known[:3])
    expect(page.locator("#t-latency")).to_contain_text("ms", timeout=12_000)
    expect(page.locator("#t-flagged")).to_contain_text("%")
    expect(page.locator("#t-queue")).to_have_text("0 of 128")
    expect(page.locator("#state")).to_have_text("Ready")
    card = page.locator("#card")
    for text in ("Export parity (fp32): passed", "Training images", "Accuracy, test images", "tf_efficientnet_lite0"):
        expect(card).to_contain_text(text)
    page.get_by_text("Classes (3)").click()
    expect(page.locator("#classes")).to_have_text(re.compile("amber.*jade.*plum"))
    page.get_by_text("Scores and thresholds").click()
    assert page.locator("#thresholds tbody tr").count() == 9


def test_a_lost_server_is_noticed_and_an_image_can_be_sent_again(page: Page, known: list[Path]) -> None:
    page.context.set_offline(True)
    expect(give(page, known[0])).to_have_text("No answer")
    expect(page.locator("#state")).to_have_text("Offline")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#verdict")).to_have_text(re.compile("distribution"))
    expect(page.locator("#state")).to_have_text("Ready", timeout=12_000)


def test_the_page_works_below_a_prefix_and_says_what_a_proxy_answered(
    visit: Open, server: Any, known: list[Path]
) -> None:
    page = visit(f"{server('--root-path', '/guard').url}/guard")
    expect(page.locator("#work")).to_be_visible()
    assert page.url.endswith("/guard/")
    expect(give(page, known[0])).to_have_text(re.compile("distribution"))
    html = "<html><head><title>413 Request Entity Too Large</title></head></html>"
    page.route("**/guard/predict*", lambda route: route.fulfill(status=413, content_type="text/html", body=html))
    expect(give(page, known[1])).to_have_text("Error 413")
    expect(page.locator("#because")).to_contain_text("does not take this much data: raise its body limit")


def test_limits_hold_before_sending_and_a_full_server_is_waited_for(
    visit: Open, server: Any, tmp_path: Path, known: list[Path], picture: Any
) -> None:
    flags = ["--max-queue", "1", "--max-files", "1", "--max-image-bytes", "20000", "--max-delay", "0"]
    page = visit(server(*flags).url)
    expect(page.locator("#work")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if predicted(request) else None)
    big = tmp_path / "big.bmp"
    big.write_bytes(b"BM" + bytes(30_000))
    expect(give(page, big)).to_have_text("Image too large")
    expect(page.locator("#because")).to_contain_text("was not sent")
    assert asked == []
    # Every refusal is waited out for whole seconds.
    give(page, *known[:9], seconds=60)
    expect(page.locator("#tally")).to_have_text(re.compile("10 images: .*1 failed"))


def test_a_key_is_asked_for_and_kept_only_by_choice(visit: Open, server: Any, known: list[Path]) -> None:
    key = new_key()
    page = visit(server("--key-hashes", f"alice:{digest(key)}").url)
    field = page.get_by_role("textbox", name="API key")
    expect(field).to_be_focused()
    expect(page.locator("#work")).to_be_hidden()
    assert "discs" not in page.content()
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not know this key")
    field.fill(key)
    field.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(give(page, known[0])).to_have_text(re.compile("distribution"))
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    page.reload()
    page.get_by_label("Keep it in this tab").check()
    field.fill(key)
    field.press("Enter")
    expect(page.locator("#work")).to_be_visible()
    page.reload()
    expect(page.locator("#work")).to_be_visible()
    page.get_by_role("link", name="API").click()
    expect(page.locator("#paths section").first).to_be_visible()
    page.go_back()
    page.get_by_role("button", name="Forget key").click()
    expect(field).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_replaced_model_is_noticed(visit: Open, server: Any, bundle: Path, tmp_path: Path, known: list[Path]) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    running = server("--no-watch", folder=folder)
    page = visit(running.url)
    give(page, *known[:2])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = "8"
    # Nothing is in distribution any more.
    fused = manifest["calibration"]["fusion"]["curve"]
    fused["values"] = [value - 1000 for value in fused["values"]]
    for golden in manifest["golden"]:
        golden |= {"is_ood": True, "ood_score": None, "threshold": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = page.locator("#verdict").text_content()
    assert httpx.post(f"{running.private}/admin/reload").status_code == 200
    assert page.locator("#verdict").text_content() == before
    expect(give(page, known[0])).to_have_text("Out of distribution")
    expect(page.locator("#model-name")).to_have_text("discs, version 8")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)])
def test_nothing_stands_in_anybodys_way(
    visit: Open, serving: Any, scheme: Any, width: int, known: list[Path], unknown: list[Path], tmp_path: Path
) -> None:
    page = visit(serving.url, color_scheme=scheme, viewport={"width": width, "height": 740}, reduced_motion="reduce")
    expect(page.locator("#traffic")).to_be_visible()
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    for paths in ([], [known[0]], [unknown[0]], [notes]):
        if paths:
            give(page, *paths)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for target in page.locator("button:visible, #files ~ * label:visible, summary:visible, #accept").all():
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 24, target


def test_the_documentation_reads_without_inline_code(visit: Open, serving: Any, known: list[Path]) -> None:
    page = visit(f"{serving.url}/docs")
    expect(page.locator("#paths section")).to_have_count(16)
    page.set_input_files("input[type=file]", known[0])
    page.get_by_role("button", name="POST /predict").click()
    expect(page.locator("#answer")).to_contain_text('"predictions"')
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_nearest_training_photos_stand_beside_the_image(
    visit: Open, server: Any, pictured: Path, unknown: list[Path], known: list[Path], nearby: Nearby
) -> None:
    running = server(folder=pictured)
    page = visit(running.url)
    for path in (unknown[0], known[0]):
        give(page, path)
        explanation = ask(running.url, path, explain="true")["explanation"]
        nearby.require([path.read_bytes()], [explanation])
        items = page.locator("#near-list li")
        expect(items).to_have_count(4)
        expect(items.locator("img")).to_have_count(4)
        assert items.first.inner_text().split("\n") == ["Your image", path.name]
        for place, neighbour in enumerate(explanation["neighbours"], 1):
            assert items.nth(place).locator("b").inner_text() == neighbour["label"]
            photo = items.nth(place).locator("img")
            expect(photo).to_have_attribute("alt", f"Training photo of {neighbour['label']}")
            wait_until(lambda photo=photo: photo.evaluate("(image) => image.naturalWidth") == 72)
        assert f"The scores of {explanation['decided_by']} decide here" in page.locator("#near-decided").inner_text()
    violations = Axe().run(page).response["violations"]
    assert not violations, violations


def test_without_thumbnails_the_photos_are_named(page: Page, serving: Any, unknown: list[Path]) -> None:
    give(page, unknown[0])
    explanation = ask(serving.url, unknown[0], explain="true")["explanation"]
    expect(page.locator("#near-list li")).to_have_count(3)
    expect(page.locator("#near-list img")).to_have_count(0)
    assert page.locator("#near-list b").all_inner_texts() == [one["label"] for one in explanation["neighbours"]]
    page.locator("#clear").click()
    expect(page.locator("#near")).to_be_hidden()
