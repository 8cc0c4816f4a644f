"""The documents as a site: every page is there, every link leads somewhere, and nothing is asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from scripts.docs_site import NAVIGATION, documents
from tests.chromium import chromium
from tests.packages import ROOT

BUILDER = ROOT / "scripts" / "docs_site.py"


def built(builder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(builder), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    ran = built(BUILDER, out)
    assert (ran.returncode, ran.stdout) == (0, f"open {out / 'index.html'}\n"), ran.stderr
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@dataclass
class Content(HTMLParser):
    """What a page of the site points at, fetches and is pointed at by."""

    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {str(found[name]) for name in ("id", "name") if name in found}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        elif tag == "link" or "src" in found:
            self.fetched.append(str(found.get("href") or found.get("src")))


def content(page: Path) -> Content:
    parsed = Content()
    parsed.feed(page.read_text(encoding="utf-8"))
    return parsed


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Content]:
    # The page for wrong addresses is a web server's; its links begin at the root of one.
    return {page: content(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}


def test_every_document_is_in_the_navigation_once() -> None:
    named = Counter(name for names in NAVIGATION.values() for name in names)
    assert named == Counter(documents())
    assert next(iter(NAVIGATION.values()))[0] == "README.md"


def test_every_document_is_a_page(site: Path, pages: dict[Path, Content]) -> None:
    for name in documents():
        page = (site / name).with_suffix(".html")
        page = page.with_stem("index") if page.stem == "README" else page
        assert page in pages, name


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Content]) -> None:
    inside = 0
    for page, found in pages.items():
        for link in (*found.links, *found.fetched):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            aim = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert aim.is_relative_to(site.resolve()), f"{page}: {link}"
            assert aim.is_file(), f"{page}: {link}"
            if parts.fragment and aim in pages:
                assert unquote(parts.fragment) in pages[aim].ids, f"{page}: {link}"
                inside += parts.path != ""
    assert inside > 40


def test_no_page_fetches_anything_from_elsewhere(pages: dict[Path, Content]) -> None:
    for page, found in pages.items():
        assert [one for one in found.fetched if urlsplit(one).scheme or one.startswith("//")] == [], page


def test_lists_are_lists(site: Path) -> None:
    """A list that follows its sentence without an empty line is one on GitHub, and none here."""
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"^(?:[*-]|\d+\.) ", paragraph, re.MULTILINE), f"{page}: {paragraph[:200]}"


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "scripts").mkdir(parents=True)
    for name in ("docs_site.py", "iframe-worker.js"):
        shutil.copy(ROOT / "scripts" / name, tree / "scripts")
    for name in documents():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"# {name}\n", encoding="utf-8")
    (tree / "docs" / "DATA.md").write_text("# Photos\n\n[gone](SCORES.md#no-such-heading)\n", encoding="utf-8")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=tree, check=True, capture_output=True)
    ran = built(tree / "scripts" / "docs_site.py", tmp_path / "site")
    assert ran.returncode == 1
    assert "no-such-heading" in ran.stderr
    assert not (tmp_path / "site").exists()


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[tuple[Page, list[str]]]:
    """The home page, opened from its folder, and every address that is asked for."""
    asked: list[str] = []
    wrong: list[str] = []
    context = browser.new_context()
    opened = context.new_page()
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto((site / "index.html").as_uri())
    yield opened, asked
    context.close()
    assert wrong == []


def test_search_works_from_a_folder_and_asks_nobody(page: tuple[Page, list[str]]) -> None:
    opened, asked = page
    expect(opened.get_by_role("heading", level=1)).to_have_text(re.compile("^oodguard"))
    opened.keyboard.press("Control+k")
    opened.keyboard.type("threshold")
    found = opened.get_by_role("option", name="Choosing a threshold")
    expect(found.first).to_be_visible()
    found.first.click()
    expect(opened).to_have_url(re.compile(r"docs/THRESHOLD\.html"))
    expect(opened.get_by_role("heading", level=1)).to_contain_text("threshold", ignore_case=True)
    assert len(asked) > 5
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []


def test_a_link_to_source_shows_the_source(page: tuple[Page, list[str]], site: Path) -> None:
    opened, _ = page
    opened.goto((site / "examples" / "index.html").as_uri())
    opened.get_by_role("link", name="predict.py", exact=True).first.click()
    expect(opened.get_by_role("heading", level=1)).to_contain_text("examples/predict.py")
    expect(opened.locator("pre")).to_contain_text("from oodguard.clients import Client")
