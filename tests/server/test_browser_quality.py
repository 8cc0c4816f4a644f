"""The page names a picture that is unfit, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter
from playwright.sync_api import expect

from tests.server import test_browser
from tests.server.test_browser import give

browser, visit, page = test_browser.browser, test_browser.visit, test_browser.page


def test_a_picture_that_is_unfit_is_named(page: Any, photos: Path, tmp_path: Path) -> None:
    known = sorted((photos / "test").rglob("*.jpg"))[0]
    with Image.open(known) as photo:
        photo.point(lambda level: level // 6).save(tmp_path / "dark.png")
        photo.filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "blurred.png")
    give(page, known)
    expect(page.locator("#fitness")).to_be_hidden()
    give(page, tmp_path / "dark.png")
    expect(page.locator("#fitness")).to_have_text("The picture is dark: no training photo is as much so.")
    give(page, tmp_path / "blurred.png")
    expect(page.locator("#fitness")).to_contain_text("The picture is blurred: ")
