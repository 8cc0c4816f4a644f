"""The tool in a real Chromium, worked in by keyboard, and the folders that the marks become."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from oodguard.review.marks import read_marks
from tests.review.folders import put

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = ["--disable-gpu", "--disable-quic", *(["--no-sandbox"] if os.geteuid() == 0 else [])]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None) or playwright.chromium.executable_path
        if not Path(found).is_file():
            pytest.skip("no Chromium: install one, or run `playwright install chromium`")
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def flagged(tmp_path: Path) -> Path:
    """Six shots of one lamp, and three other pictures: nearest to the threshold is b, then c, the lamps, a."""
    folder = tmp_path / "flagged"
    lamp = Image.fromarray(np.random.default_rng(77).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    lamp = lamp.resize((240, 180), Image.Resampling.BICUBIC)
    for number in range(6):
        shot = lamp.crop((number, 0, 235 + number, 180))
        put(folder, f"lamp-{number}.jpg", score=10.0 + number / 100, label="jade", picture=shot, knn=90.0)
    put(folder, "a.jpg", score=12.0, picture=1, minutes=9)
    put(folder, "b.jpg", score=8.1, picture=2, minutes=5)
    put(folder, "c.jpg", score=8.5, picture=3, probability=0.9, minutes=7)
    return folder


class Tool:
    """`oodguard review FOLDER --port 0`, as a person starts it."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "oodguard.cli", "review", str(folder), "--port", "0", "--cache", "cache"]
        self.process = subprocess.Popen(
            command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.said = ""
        while not (found := re.search(r"open (http://127\.0\.0\.1:\d+/\S+/)\n", self.said)):
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.url = found[1]

    def end(self, how: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(how)
        said, _ = self.process.communicate(timeout=30)
        return str(said)


@pytest.fixture
def tool(flagged: Path) -> Iterator[Tool]:
    started = Tool(flagged)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


def visit(browser: Browser, url: str, groups: int, **options: object) -> Page:
    """The page, once all look-alikes are found."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(url)
    expect(page.locator("#summary")).to_have_text(re.compile(rf"in {groups} decisions?$"), timeout=30_000)
    return page


def leads(page: Page) -> list[str]:
    """The names of the pictures that stand for the cells, in order."""
    names = page.evaluate("fetch('overview').then(r => r.json()).then(o => o.pictures.map(p => p.file))")
    return [names[int(number)] for number in page.eval_on_selector_all(".cell", "all => all.map(c => c.dataset.lead)")]


def marks(folder: Path) -> dict[str, str]:
    path = folder / "marks.csv"
    rows = read_marks(path) if path.exists() else {}
    return {name: f"{row.mark.kind} {row.mark.label}".strip() for name, row in rows.items()}


def wait_for(folder: Path, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + 15
    while marks(folder) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marks(folder) == wanted


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds, and where."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


LAMPS = {f"lamp-{number}.jpg": "new class lamp" for number in range(6)}


def test_a_person_marks_everything_by_keyboard_and_the_marks_become_folders(
    browser: Browser, tool: Tool, flagged: Path
) -> None:
    page = visit(browser, tool.url, groups=4)
    # Least certain first, and the look-alikes as one.
    order = [name.split("-")[0] for name in leads(page)]
    assert order == ["b.jpg", "c.jpg", "lamp", "a.jpg"]
    expect(page.locator(".cell").first).to_be_focused()
    page.keyboard.press("s")
    wait_for(flagged, {"b.jpg": "stranger"})
    expect(page.locator("#progress")).to_have_text("1 of 9 pictures marked")
    # The next decision is chosen by itself; a class that the model knows is found by its first letters.
    page.keyboard.press("k")
    wait_for(flagged, {"b.jpg": "stranger", "c.jpg": "known plum"})
    expect(page.locator("#scope")).to_have_text("This group of 6:")
    page.keyboard.press("n")
    page.keyboard.type("jade")
    page.keyboard.press("Enter")
    expect(page.locator("#picker-error")).to_have_text(re.compile("there is a class jade already"))
    page.locator("#picker-name").fill("lamp")
    page.keyboard.press("Enter")
    wait_for(flagged, {"b.jpg": "stranger", "c.jpg": "known plum", **LAMPS})
    expect(page.locator("#picker")).to_be_hidden()
    page.keyboard.press("b")
    done = {"b.jpg": "stranger", "c.jpg": "known plum", **LAMPS, "a.jpg": "bad picture"}
    wait_for(flagged, done)
    expect(page.locator("#empty")).to_contain_text("All 9 pictures are marked")
    # Two steps back, and forth again.
    page.keyboard.press("u")
    page.keyboard.press("Control+z")
    wait_for(flagged, {"b.jpg": "stranger", "c.jpg": "known plum"})
    expect(page.locator("#scope")).to_have_text("This group of 6:")
    # Keys of marks that were used before; the recent classes are numbered in the panel.
    expect(page.locator("#recent li")).to_have_text([re.compile("known: plum"), re.compile("new class: lamp")])
    page.keyboard.press("2")
    page.keyboard.press("b")
    wait_for(flagged, done)
    said = tool.end()
    assert "9 of 9 images are marked" in said
    assert f"next: oodguard review {flagged} --apply {flagged / 'marks.csv'} --into photos" in said
    assert tool.process.returncode == 0
    assert len({row.group for name, row in read_marks(flagged / "marks.csv").items() if "lamp" in name}) == 1


def test_single_pictures_of_a_group_and_a_second_session(browser: Browser, tool: Tool, flagged: Path) -> None:
    page = visit(browser, tool.url, groups=4)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".cell")).to_have_count(6)
    expect(page.locator("#summary")).to_have_text("6 pictures of one group")
    # Two of them are something else.
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(page.locator("#scope")).to_have_text("2 selected pictures:")
    page.keyboard.press("s")
    expect(page.locator(".cell")).to_have_count(4)
    page.keyboard.press("Escape")
    expect(page.locator(".cell")).to_have_count(4)
    expect(page.locator("#scope")).to_have_text("This group of 4:")
    page.keyboard.press("c")
    page.keyboard.type("pl")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_have_text("6 of 9 pictures marked")
    before = marks(flagged)
    assert sorted(before.values()) == ["known plum"] * 4 + ["stranger"] * 2
    # The machine goes down; the next session begins where this one stopped.
    tool.end(signal.SIGKILL)
    again = Tool(flagged)
    try:
        assert "6 of them marked" in again.said
        other = visit(browser, again.url, groups=3)
        assert leads(other) == ["b.jpg", "c.jpg", "a.jpg"]
        assert marks(flagged) == before
        other.select_option("#show", "stranger")
        expect(other.locator(".cell .tag")).to_have_text(["stranger"])
        other.locator(".cell").click()
        other.get_by_role("button", name="No mark").click()
        wait_for(flagged, {name: mark for name, mark in before.items() if mark != "stranger"})
    finally:
        again.end()


def test_filters_and_orders(browser: Browser, tool: Tool) -> None:
    page = visit(browser, tool.url, groups=4)
    page.select_option("#level", "off")
    expect(page.locator(".cell")).to_have_count(9)
    page.select_option("#order", "score")
    assert leads(page)[:3] == ["a.jpg", "lamp-5.jpg", "lamp-4.jpg"]
    page.select_option("#order", "time")
    assert leads(page)[:3] == ["a.jpg", "c.jpg", "b.jpg"]
    page.select_option("#label", "plum")
    expect(page.locator(".cell")).to_have_count(3)
    page.fill("#from", "8.2")
    page.fill("#to", "9")
    assert leads(page) == ["c.jpg"]
    page.select_option("#label", "")
    page.select_option("#score", "of:knn")
    expect(page.locator(".cell")).to_have_count(9)
    page.fill("#to", "95")
    expect(page.locator(".cell")).to_have_count(6)
    page.fill("#to", "5")
    expect(page.locator("#empty")).to_have_text("The filters show nothing. Choose others.")
    page.fill("#to", "")
    page.select_option("#score", "probability")
    page.fill("#from", "0.8")
    assert leads(page) == ["c.jpg"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_a_phone(browser: Browser, tool: Tool, scheme: str) -> None:
    page = visit(browser, tool.url, groups=4, color_scheme=scheme, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#mark-stranger")).to_be_visible()
    assert violations(page) == []
    page.set_viewport_size({"width": 1300, "height": 800})
    assert violations(page) == []
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    assert violations(page) == []


def test_a_page_of_another_origin_reads_and_marks_nothing(browser: Browser, tool: Tool, flagged: Path) -> None:
    """Even one that knows the secret."""
    page = browser.new_context().new_page()
    page.route("http://other.example/*", lambda route: route.fulfill(body="<p>other</p>", content_type="text/html"))
    page.goto("http://other.example/")
    tried = page.evaluate(
        """async (url) => {
            const tries = [
                () => fetch(url + 'overview').then((r) => r.text()),
                () => fetch(url + 'mark', {method: 'POST', body: '{"pictures": [0], "mark": "stranger"}',
                    mode: 'no-cors', headers: {'content-type': 'text/plain'}}).then((r) => r.type),
                () => fetch(url + 'mark', {method: 'POST', body: '{"pictures": [0], "mark": "stranger"}',
                    headers: {'content-type': 'application/json'}}).then((r) => r.text()),
                () => new Promise((done, failed) => {
                    const image = new Image();
                    image.onload = () => done('seen');
                    image.onerror = () => failed('refused');
                    image.src = url + 'small/0';
                }),
            ];
            const found = [];
            for (const one of tries) found.push(await one().catch(() => 'refused'));
            return found;
        }""",
        tool.url,
    )
    # An opaque answer tells the page nothing; that it marked nothing, the file shows.
    assert [one for one in tried if one != "opaque"] == ["refused"] * (len(tried) - tried.count("opaque"))
    assert not (flagged / "marks.csv").exists()
