from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest

from oodguard.pages.page import (
    Card,
    CodeBlock,
    Fact,
    Facts,
    Finding,
    Findings,
    Gallery,
    Illustration,
    Page,
    Prose,
    Section,
    Table,
    render,
)
from oodguard.pages.plot import Plot
from oodguard.pages.text import bracketed, count, interval, percent, plain, signed

EVIL = '"><script>alert(1)</script><img src=x onerror=y> {{ 7 * 7 }} & \x00\x1b[31m \udcff \u202e'
PIXEL = "data:image/jpeg;base64,AAAA"


def everything(text: str) -> Page:
    plot = Plot(svg='<svg role="img" viewBox="0 0 1 1" aria-label="x"></svg>', alt="x")
    return Page(
        title=text,
        subtitle=text,
        first=(Facts((Fact(name=text, value=text, detail=text),)), Findings((Finding("weak", text),))),
        sections=(
            Section(
                "One",
                (Prose(text), CodeBlock(text), Table(caption=text, head=(text, text), rows=((text, text),), note=text)),
            ),
            Section(
                "Two: " + text,
                (
                    Illustration(plot=plot, caption=text),
                    Gallery(
                        caption=text,
                        note=text,
                        cards=(
                            Card(image=PIXEL, alt=text, title=text, lines=(text,), mark=text),
                            Card(image=None, alt=text, title=text),
                        ),
                    ),
                ),
            ),
        ),
        footer=text,
    )


def test_untrusted_text_stays_text_in_every_place(parse_page: Callable[[str], Element]) -> None:
    text = render(everything(EVIL))
    tree = parse_page(text)
    shown = "".join(tree.itertext())
    visible = plain(EVIL)
    assert shown.count(visible) == 26
    assert [image.get("alt") for image in tree.iter("img")] == [visible]
    assert "{{ 7 * 7 }}" in shown
    assert "49" not in shown
    assert "\x1b" not in text
    text.encode("utf-8")


def test_contents_lead_to_their_sections(parse_page: Callable[[str], Element]) -> None:
    tree = parse_page(render(everything("x y")))
    links = [a.get("href") for a in tree.iter("a")]
    assert links == ["#one", "#two-x-y"]
    assert [s.get("id") for s in tree.iter("section") if s.get("id")] == ["one", "two-x-y"]


def test_a_page_without_sections_has_no_contents(parse_page: Callable[[str], Element]) -> None:
    tree = parse_page(render(Page(title="t", subtitle="s")))
    assert tree.find(".//nav") is None


def test_sections_that_share_an_address_are_refused() -> None:
    with pytest.raises(ValueError, match="different titles"):
        render(Page(title="t", subtitle="s", sections=(Section("A b", ()), Section("a-B", ()))))


def test_images_from_elsewhere_are_refused() -> None:
    card = Card(image="https://example.org/x.png", alt="x", title="x")
    with pytest.raises(ValueError, match="data:"):
        render(Page(title="t", subtitle="s", first=(Gallery(caption="c", cards=(card,)),)))


def test_the_first_column_names_its_row_and_strong_rows_are_marked(parse_page: Callable[[str], Element]) -> None:
    table = Table(caption="c", head=("a", "b"), rows=(("1", "2"), ("3", "4")), strong=frozenset({1}))
    tree = parse_page(render(Page(title="t", subtitle="s", first=(table,))))
    rows = list(tree.iter("tr"))
    assert [[cell.get("scope") for cell in row] for row in rows] == [["col", "col"], ["row", None], ["row", None]]
    assert [row.get("class") for row in rows] == [None, None, "strong"]


def test_numbers_as_pages_write_them() -> None:
    assert percent(0.8281) == "82.8\N{NO-BREAK SPACE}%"
    assert interval(0.809, 0.846) == "80.9 to 84.6\N{NO-BREAK SPACE}%"
    assert bracketed(0.9894, (0.9849, 1.0)) == "98.9 (98.5\N{EN DASH}100.0)"
    assert [signed(v) for v in (0.031, -0.5, -0.001, 0.0)] == ["+0.03", "\N{MINUS SIGN}0.50", "0.00", "0.00"]
    assert [count(n, "image") for n in (0, 1, 1704)] == ["0 images", "1 image", "1,704 images"]
    assert count(34, "class") == "34 classes"
